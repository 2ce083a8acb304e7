from promptflow.core import tool


def deeper(how):
    raise ValueError(f"cannot do {how}")


@tool
def first(how: str, count: int) -> str:
    if how == "raise":
        deeper(how)
    if how == "stream":
        return (letter for letter in ["a", "b", "c"] * count)
    return how * count
