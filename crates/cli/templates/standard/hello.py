from promptflow.core import tool


@tool
def echo(prompt: str) -> str:
    return "Prompt: " + prompt.strip()
