from promptflow.core import tool


@tool
def f(x):
    return x


@tool
def g(x):
    return x
