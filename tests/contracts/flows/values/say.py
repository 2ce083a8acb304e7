from promptflow.core import tool


@tool
def say(question: str, values: dict) -> str:
    return f"You asked: {question} ({values['label']})"
