"""Jinja templates whose inputs are not all JSON: rendered here, where the inputs are."""

import sys

from promptflow.core._errors import JinjaTemplateError


def fill(template, inputs):
    from jinja2.sandbox import SandboxedEnvironment  # of the bundle's packages; most flows never need it here

    environment = SandboxedEnvironment(trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(template).render(**inputs)


def render(template, inputs):
    try:
        return fill(template, inputs)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        print(f"Exception occurs: {text}", file=sys.stderr)
        raise JinjaTemplateError(
            f"Failed to render jinja template: {text}. Please modify your prompt to fix the issue."
        ) from error
