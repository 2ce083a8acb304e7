from promptflow.core import log_metric
from promptflow.core import tool


@tool
def a(xs):
    log_metric("n", len(xs))
    log_metric("xs", repr(xs))
    return xs
