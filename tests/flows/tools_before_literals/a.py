from promptflow.core import tool


@tool
def f(x: int):
    return x
