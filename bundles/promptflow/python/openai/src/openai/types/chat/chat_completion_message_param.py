"""What goes to the service: objects that are plain dictionaries, under names for annotations."""

from typing import Any

_Object = dict[str, Any]

ChatCompletionMessageParam = _Object
ChatCompletionDeveloperMessageParam = ChatCompletionSystemMessageParam = ChatCompletionUserMessageParam = _Object
ChatCompletionAssistantMessageParam = ChatCompletionToolMessageParam = ChatCompletionFunctionMessageParam = _Object
ChatCompletionContentPartParam = ChatCompletionContentPartTextParam = ChatCompletionContentPartImageParam = _Object
ChatCompletionContentPartInputAudioParam = ChatCompletionContentPartRefusalParam = _Object
ChatCompletionMessageToolCallParam = ChatCompletionMessageFunctionToolCallParam = ChatCompletionMessageToolCallUnionParam = _Object
ChatCompletionToolParam = ChatCompletionFunctionToolParam = ChatCompletionToolUnionParam = _Object
ChatCompletionNamedToolChoiceParam = ChatCompletionFunctionCallOptionParam = ChatCompletionStreamOptionsParam = _Object
ChatCompletionPredictionContentParam = ChatCompletionAudioParam = _Object
# One of these may be a word, too.
ChatCompletionToolChoiceOptionParam = str | _Object

__all__ = [name for name in list(globals()) if name.startswith("ChatCompletion")]
