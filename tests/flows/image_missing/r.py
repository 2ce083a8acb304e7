from promptflow.core import tool


@tool
def f(image):
    return str(image)
