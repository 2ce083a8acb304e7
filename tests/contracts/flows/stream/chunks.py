from promptflow.core import tool


@tool
def chunks(text: str):
    for word in text.split():
        yield word + " "
