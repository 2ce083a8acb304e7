from promptflow.core import tool


@tool
def stream(x: dict):
    for word in x["question"].split():
        yield word + " "
