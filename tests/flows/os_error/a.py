from promptflow.core import tool


@tool
def f():
    return open("gone.txt").read()
