from dataclasses import dataclass

from promptflow.core import tool

WORDS_PER_MINUTE = 200


@dataclass
class ReadingTime:
    seconds: int

    def __str__(self):
        return f"{self.seconds} s"


@tool
def reading_time(words: int) -> ReadingTime:
    return ReadingTime(round(60 * words / WORDS_PER_MINUTE))
