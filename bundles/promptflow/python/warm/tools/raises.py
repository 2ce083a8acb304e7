from promptflow.core import tool


@tool
def raises(x: dict) -> str:
    try:
        return x["missing"]
    except KeyError as error:
        raise ValueError(f"nothing of that name: {error}") from error
