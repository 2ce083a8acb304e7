from promptflow.core import tool


@tool
def first(q: list):
    return q[0]
