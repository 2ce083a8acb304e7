from promptflow.core import ToolProvider, tool


class Provider(ToolProvider):
    def __init__(self, greeting: str = "hello"):
        super().__init__()
        self.greeting = greeting

    @tool
    def provide(self, x: dict) -> dict:
        return {**x}
