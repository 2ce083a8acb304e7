import os


def main(text: str, times: int = 2, other: list = None, **rest):
    """Inputs that the file does not declare have the signature's types."""
    return [text, times + 1, other, rest, os.environ["WHERE"], os.getcwd()]
