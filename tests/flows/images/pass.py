from promptflow.contracts.multimedia import Image
from promptflow.core import tool


@tool
def pass_on(image: Image, inside: dict):
    return [image, inside]
