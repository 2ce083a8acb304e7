from promptflow.core import tool


@tool
def t(x):
    return {"v": x}
