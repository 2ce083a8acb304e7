"""promptflow's client manages flows, runs and connections; in a sandbox there is nothing to manage."""

from promptflow.exceptions import UserErrorException


class PFClient:
    def __init__(self, *args, **kwargs):
        raise UserErrorException(
            "PFClient does not work inside a flow here. Give the tool what it needs as inputs, such as a connection."
        )


def load_flow(source, **kwargs):
    """A prompty as a function. Other flows are refused."""
    from promptflow.core import Flow

    return Flow.load(source, **kwargs)
