async def later():
    yield "c"
    yield 4


def main():
    return {"first": iter("ab"), "second": later(), "third": {"is": None}}
