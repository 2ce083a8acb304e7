from promptflow.core import tool


@tool
def a():
    return 1


@tool
def b():
    return 2
