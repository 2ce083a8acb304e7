"""Types that say what an input is."""

from dataclasses import dataclass


class Secret(str):
    """A secret."""

    def set_secret_name(self, name):
        self.secret_name = name


class PromptTemplate(str):
    """A prompt's template."""


class FilePath(str):
    """A path of a file in the flow."""


@dataclass
class AssistantDefinition:
    """An assistant: model, instructions and the tools it may call."""

    model: str
    instructions: str
    tools: list

    def __post_init__(self):
        self._tool_invoker = None

    @staticmethod
    def deserialize(data):
        return AssistantDefinition(data.get("model", ""), data.get("instructions", ""), data.get("tools", []))

    def serialize(self):
        return {"model": self.model, "instructions": self.instructions, "tools": self.tools}


class AttrDict(dict):
    """A dict whose keys are attributes too."""

    def __getattr__(self, key):
        return self[key]

    def __setattr__(self, key, value):
        self[key] = value
