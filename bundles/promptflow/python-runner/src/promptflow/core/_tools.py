"""Tools and functions for a model to call, checked before it is asked, in promptflow's words."""

import json

from promptflow.core._errors import ChatAPIInvalidFunctions, ChatAPIInvalidTools

_FUNCTIONS_HELP = (
    'Here is a valid function example: {"name": "function_name", "parameters": {"type": "object", "properties": '
    '{"parameter_name": {"type": "integer", "description": "parameter_description"}}}, "description": '
    '"function_description"}. See more details at '
    "https://platform.openai.com/docs/api-reference/chat/create#chat/create-functions "
    "or view sample 'How to use functions with chat models' in our gallery."
)
_TOOLS_HELP = (
    'Here is a valid tool example: {"type": "function", "function": {"name": "get_current_weather", "description": '
    '"Get the current weather in a given location", "parameters": {"type": "object", "properties": {"location": '
    '{"type": "string", "description": "The city and state, e.g. San Francisco, CA"}, "unit": {"type": "string", '
    '"enum": ["celsius", "fahrenheit"]}}, "required": ["location"]}}}. See more details at '
    "https://platform.openai.com/docs/api-reference/chat/create"
)


def check_functions(functions):
    """Refuses functions that no model would take."""
    if not functions:
        raise ChatAPIInvalidFunctions(message=f"functions cannot be an empty list. {_FUNCTIONS_HELP}")
    for number, function in enumerate(functions):
        _check_function(number, function, ChatAPIInvalidFunctions, _FUNCTIONS_HELP)


def check_tools(tools):
    """Refuses tools that no model would take."""
    if not tools:
        raise ChatAPIInvalidTools(message=f"tools cannot be an empty list. {_TOOLS_HELP}")
    for number, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise ChatAPIInvalidTools(message=f"tool {number} '{tool}' is not a dict. {_TOOLS_HELP}")
        for key in ("type", "function"):
            if key not in tool:
                raise ChatAPIInvalidTools(message=f"tool {number} '{tool}' does not have '{key}' property. {_TOOLS_HELP}")
        _check_function(number, tool["function"], ChatAPIInvalidTools, _TOOLS_HELP)


def _check_function(number, function, kind, help):
    if not isinstance(function, dict):
        raise kind(message=f"function {number} '{function}' is not a dict. {help}")
    for key in ("name", "parameters"):
        if key not in function:
            raise kind(message=f"function {number} '{function}' does not have '{key}' property. {help}")
    schema, whose = function["parameters"], f"function {number} '{function['name']}' parameters"
    if not isinstance(schema, dict):
        raise kind(message=f"{whose} '{schema}' should be described as a JSON Schema object. {help}")
    for key in ("type", "properties"):
        if key not in schema:
            raise kind(message=f"{whose} '{schema}' does not have '{key}' property. {help}")
    if schema["type"] != "object":
        raise kind(message=f"{whose} 'type' should be 'object'. {help}")
    if not isinstance(schema["properties"], dict):
        raise kind(message=f"{whose} 'properties' should be described as a JSON Schema object. {help}")


def function_call(choice):
    """Which function is to be called: the model's choice where nothing is said."""
    if choice is None or choice in ("auto", "none"):
        return choice or "auto"
    help = (
        'Here is a valid example: {"name": "function_name"}. See the guide at '
        "https://platform.openai.com/docs/api-reference/chat/create#chat/create-function_call "
        "or view sample 'How to call functions with chat models' in our gallery."
    )
    if not isinstance(choice, dict):
        raise ChatAPIInvalidFunctions(
            message=f"function_call parameter '{choice}' must be a dict, but not {type(choice)}. {help}"
        )
    if "name" not in choice:
        raise ChatAPIInvalidFunctions(message=f'function_call parameter {json.dumps(choice)} must contain "name" field. {help}')
    return choice


def tool_choice(choice):
    """Which tool is to be called: the model's choice where nothing is said."""
    if choice is None or choice in ("auto", "none"):
        return choice or "auto"
    help = (
        'Here is a valid example: {"type": "function", "function": {"name": "my_function"}}. See the guide at '
        "https://platform.openai.com/docs/api-reference/chat/create."
    )
    if not isinstance(choice, dict):
        raise ChatAPIInvalidTools(message=f"tool_choice parameter '{choice}' must be a dict, but not {type(choice)}. {help}")
    for key in ("type", "function"):
        if key not in choice:
            raise ChatAPIInvalidTools(message=f'tool_choice parameter {json.dumps(choice)} must contain "{key}" field. {help}')
    function = choice["function"]
    if not isinstance(function, dict):
        raise ChatAPIInvalidTools(
            message=f'function parameter "{function}" in tool_choice must be a dict, but not {type(function)}. {help}'
        )
    if "name" not in function:
        raise ChatAPIInvalidTools(
            message=f'function parameter "{json.dumps(function)}" in tool_choice must contain "name" field. {help}'
        )
    return choice
