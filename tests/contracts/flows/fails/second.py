from promptflow.core import tool


@tool
def second(value: str) -> str:
    if value == "set":
        return {1, 2}
    return f"<{value}>"
