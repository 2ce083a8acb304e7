from promptflow.core import tool


def told(value):
    if isinstance(value, list):
        return [told(item) for item in value]
    if isinstance(value, dict):
        return {key: told(item) for key, item in value.items()}
    return f"{type(value).__name__} {value} {getattr(value, '_mime_type', '')}".strip()


@tool
def describe(**inputs):
    return told(inputs)
