"""A prompt's text as messages of roles, with the images that it shows.

What the inputs say must not become a role: where a line of theirs looks like one, its word is replaced by a name that nobody
can guess until the roles have been read.
"""

import ast
import re
import uuid

from promptflow.contracts.multimedia import Image
from promptflow.core._errors import (
    ChatAPIFunctionRoleInvalidFormat,
    ChatAPIInvalidRoleError,
    ChatAPIToolRoleInvalidFormat,
    JinjaTemplateError,
)

_ROLES = ("system", "user", "assistant", "function", "tool")
_ROLE_LINE = re.compile(r"^\s*#?\s*(" + "|".join(_ROLES) + r")\s*:\s*\n", re.IGNORECASE | re.MULTILINE)
_IMAGE_LINK = re.compile(r"!\[\s*image\s*\]\(\{\{(\s*[^\s{}]+\s*)\}\}\)")
_NAME = re.compile(r"\n*#{0,2}\s*name\s*:\s*\n+\s*(\S+)\s*\n*#{0,2}\s*content\s*:\s*\n?(.*)", re.DOTALL)
_CALL_ID = re.compile(r"\n*#{0,2}\s*tool_call_id\s*:\s*\n+\s*(\S+)\s*\n*#{0,2}\s*content\s*:\s*\n?(.*)", re.DOTALL)
_CALLS = re.compile(r"\n*#{0,2}\s*tool_calls\s*:\s*\n+\s*(\[.*?\])\s*$", re.DOTALL)


def with_image_lines(template):
    """The template with each `![image]({{x}})` on a line of its own, where it is found again as an image."""
    return _IMAGE_LINK.sub(lambda link: f"\n{{{{{link[1]}}}}}\n", template)


def messages(template, inputs, render):
    """The messages of a template; `render` fills it."""
    hidden = _hidden_roles(inputs)
    shown = {name: _hide(value, hidden) if isinstance(value, str) else value for name, value in inputs.items()}
    try:
        text = render(template, shown)
    except Exception as error:
        raise JinjaTemplateError(
            f"Failed to render jinja template: {type(error).__name__}: {_reveal(str(error), hidden)}. "
            "Please modify your prompt to fix the issue."
        ) from error
    images = {str(image): image for image in _images_in(list(inputs.values()))}
    return _reveal(_parsed(text, images, hidden), hidden)


def _hidden_roles(inputs):
    """The role words of the inputs' texts, by the names that stand for them."""
    words = [word for value in inputs.values() if isinstance(value, str) for word in _ROLE_LINE.findall(value)]
    return {str(uuid.uuid4()): word for word in dict.fromkeys(words)}


def _hide(text, hidden):
    # An image is bytes, and a text with annotations a text: both have their ways.
    for name, word in hidden.items():
        text = text.replace(word, name)
    return text


def _reveal(value, hidden):
    if isinstance(value, str):
        for name, word in hidden.items():
            value = value.replace(name, word)
        return value
    if isinstance(value, list):
        return [_reveal(item, hidden) for item in value]
    if isinstance(value, dict):
        return {key: _reveal(item, hidden) for key, item in value.items()}
    return value


def _images_in(value):
    if isinstance(value, Image):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _images_in(item)


def _parsed(text, images, hidden):
    found = []
    for chunk in _ROLE_LINE.split(text):
        last = found[-1] if found else {"content": None}
        role = last.get("role")
        if role == "tool" and "content" not in last:
            last["tool_call_id"], last["content"] = _of_tool(chunk, images)
            continue
        calls = _tool_calls(chunk) if role == "assistant" else None
        if calls is not None:
            last["tool_calls"] = calls
        elif "content" not in last and "tool_calls" not in last:
            last.update(_said(role, chunk, images))
        elif chunk.strip():
            found.append({"role": _role(chunk, hidden)})
    return found


def _role(chunk, hidden):
    role = chunk.strip().lower()
    if role not in _ROLES:
        lines = ",".join(f"'{role}:\\n'" for role in _ROLES)
        raise ChatAPIInvalidRoleError(
            "The Chat API requires a specific format for prompt definition, and the prompt should include separate "
            f"lines as role delimiters: {lines}. Current parsed role '{_reveal(role, hidden)}'"
            " does not meet the requirement. If you intend to use the Completion API, please select the appropriate"
            " API type and deployment name. If you do intend to use the Chat API, please refer to the guideline at "
            "https://aka.ms/pfdoc/chat-prompt or view the samples in our gallery that contain 'Chat' in the name."
        )
    return role


def _said(role, chunk, images):
    named = _NAME.search(chunk)
    if named:
        return {"name": named[1], "content": _content(named[2], images)}
    if role == "function":
        raise ChatAPIFunctionRoleInvalidFormat(
            "Failed to parse function role prompt. Please make sure the prompt follows the "
            "format: 'name:\\nfunction_name\\ncontent:\\nfunction_content'. "
            "'name' is required if role is function, and it should be the name of the function "
            "whose response is in the content. May contain a-z, A-Z, 0-9, and underscores, "
            "with a maximum length of 64 characters. See more details in "
            "https://platform.openai.com/docs/api-reference/chat/create#chat/create-name "
            "or view sample 'How to use functions with chat models' in our gallery."
        )
    return {"content": _content(chunk, images)}


def _of_tool(chunk, images):
    answered = _CALL_ID.search(chunk)
    if answered is None:
        raise ChatAPIToolRoleInvalidFormat(
            "Failed to parse tool role prompt. Please make sure the prompt follows the "
            "format: 'tool_call_id:\\ntool_call_id\\ncontent:\\ntool_content'. "
            "'tool_call_id' is required if role is tool, and it should be the tool call that this message is responding"
            " to. See more details in https://platform.openai.com/docs/api-reference/chat/create#chat-create-messages"
        )
    return answered[1], _content(answered[2], images)


def _tool_calls(chunk):
    calls = _CALLS.search(chunk)
    try:
        return calls and ast.literal_eval(calls[1])
    except Exception:  # whatever it is, it is no list of calls, and so a text
        return None


def _content(text, images):
    """The text, or its lines and images where there is an image."""
    text = text.strip()
    lines = text.split("\n")
    if not any(line.strip() in images for line in lines):
        return text
    return [_part(line, images) for line in lines if line.strip()]


def _part(line, images):
    image = images.get(line.strip())
    if image is None:
        return {"type": "text", "text": line}
    url = image.source_url or image.to_base64(with_type=True)
    return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}
