"""What a model says."""

from typing import List, Optional

from ..._models import BaseModel
from .chat_completion_message_tool_call import ChatCompletionMessageToolCallUnion


class AnnotationURLCitation(BaseModel):
    end_index: int
    start_index: int
    title: str
    url: str


class Annotation(BaseModel):
    type: str
    url_citation: AnnotationURLCitation


class ChatCompletionAudio(BaseModel):
    id: str
    data: str
    expires_at: int
    transcript: str


class FunctionCall(BaseModel):
    arguments: str
    name: str


class ChatCompletionMessage(BaseModel):
    content: Optional[str] = None
    refusal: Optional[str] = None
    role: str
    annotations: Optional[List[Annotation]] = None
    audio: Optional[ChatCompletionAudio] = None
    function_call: Optional[FunctionCall] = None
    tool_calls: Optional[List[ChatCompletionMessageToolCallUnion]] = None
