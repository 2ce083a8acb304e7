from promptflow.contracts.multimedia import Image
from promptflow.core import tool


@tool
def f(image: Image):
    return str(image)
