import asyncio
from dataclasses import dataclass

from promptflow.tracing import trace


@dataclass
class Answer:
    question: str
    sum: int
    parts: tuple


class Adding:
    def __init__(self, name: str, start: int = 0):
        self.name, self.sum = name, start

    @trace
    async def __call__(self, question: str, by: int = 1, comment: str = None) -> Answer:
        await asyncio.sleep(0)
        self.sum += by
        return Answer(question, self.sum, (self.name, comment))

    async def __aggregate__(self, results: list):
        await asyncio.sleep(0)
        return {"sum": sum(result.sum for result in results), "in_object": self.sum}
