"""Jinja templates whose inputs are not all JSON: rendered here, where the inputs are."""

import sys

from promptflow.exceptions import UserErrorException


class JinjaTemplateError(UserErrorException):
    """promptflow's error for a template that does not render."""


def render(template, inputs):
    from jinja2.sandbox import SandboxedEnvironment  # of the bundle's packages; most flows never need it here

    try:
        environment = SandboxedEnvironment(trim_blocks=True, keep_trailing_newline=True)
        return environment.from_string(template).render(**inputs)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        print(f"Exception occurs: {text}", file=sys.stderr)
        raise JinjaTemplateError(
            f"Failed to render jinja template: {text}. Please modify your prompt to fix the issue."
        ) from error
