"""An input's JSON becomes what the tool expects, where that is more than JSON: connections, images, assistants."""

from promptflow.connections import CustomStrongTypeConnection, connection_from
from promptflow.contracts.types import AssistantDefinition

from . import media

CONNECTION = "$connection"


def special(value):
    """The JSON object's meaning when it is one of the host's marked values, else the object itself."""
    if len(value) == 1:
        ((mark, content),) = value.items()
        if mark == CONNECTION:
            return connection_from(content)
        # A user's own data may have such a key too.
        if mark == media.IMAGE and isinstance(content, dict) and content.keys() == {"value", "type", "message_format"}:
            return media.load(**content)
    return value


def converter(annotation):
    """What an input for a parameter of this type goes through; None where it stays as it is."""
    if annotation is AssistantDefinition:
        return _to_assistant
    for member in annotation if isinstance(annotation, list) else [annotation]:
        if isinstance(member, type) and issubclass(member, CustomStrongTypeConnection):
            return member.from_custom
    return None


def _to_assistant(value):
    return AssistantDefinition.deserialize(value) if isinstance(value, dict) else value
