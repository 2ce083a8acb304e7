"""Calls a node's tool with the inputs of a request."""

from wit_world.exports.runner import Argument_Json, Argument_Objects

from . import concurrency, entries, errors, loading, objects, values


def arguments(pairs):
    """The request's inputs as Python values, by name."""
    return {name: _value(argument) for name, argument in pairs}


def _value(argument):
    if type(argument) is Argument_Json:
        return values.from_json(argument.value)
    if type(argument) is Argument_Objects:
        return [objects.get(number) for number in argument.value]
    return objects.get(argument.value)


def call(request):
    try:
        tool = loading.load(request.node, request.source)
    except loading.LoadFailed as failure:
        raise errors.Refused(*errors.load_failure(failure)) from failure.error
    inputs = arguments(request.inputs)
    if isinstance(tool, entries.Entry):
        return tool.call(arguments(request.init), inputs)
    inputs = _converted(tool, inputs)
    function = tool.function
    if tool.provider is not None:
        function = function.__get__(_instance(tool, request.init))
    result = function(**inputs)
    return concurrency.wait_for(result) if tool.is_async else result


def _converted(tool, inputs):
    for name, convert in tool.converters.items():
        if name in inputs:
            inputs[name] = convert(inputs[name])
    return inputs


def _instance(tool, init):
    """The tool's object: made once per node, as in promptflow, and again only when its inputs are others."""
    if tool.instance is None or tool.instance_init != init:
        tool.instance = tool.provider(**_converted(tool, arguments(init)))
        tool.instance_init = init
    return tool.instance

