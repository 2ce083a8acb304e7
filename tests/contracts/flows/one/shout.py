from promptflow.core import tool


@tool
def shout(text: str) -> str:
    print("shouting", text)
    return text.upper() + "!"
