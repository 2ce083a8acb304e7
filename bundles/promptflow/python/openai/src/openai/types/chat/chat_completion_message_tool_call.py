"""Tools that a model asks for."""

from typing import Union

from ..._models import BaseModel


class Function(BaseModel):
    arguments: str
    name: str


class ChatCompletionMessageFunctionToolCall(BaseModel):
    id: str
    function: Function
    type: str


class Custom(BaseModel):
    input: str
    name: str


class ChatCompletionMessageCustomToolCall(BaseModel):
    id: str
    custom: Custom
    type: str


ChatCompletionMessageToolCall = ChatCompletionMessageFunctionToolCall
ChatCompletionMessageToolCallUnion = Union[ChatCompletionMessageFunctionToolCall, ChatCompletionMessageCustomToolCall]
