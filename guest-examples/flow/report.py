from promptflow.core import tool


@tool
def report(page: str, slug: str) -> str:
    return f"{page}\n(to be kept as {slug}.md)\n"
