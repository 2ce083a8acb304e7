from promptflow.core import log_metric, tool


@tool
def sum_up(values: list):
    log_metric("nan", float("nan"))
    log_metric("inf", -float("inf"))
    log_metric("values", {"list": values, "none": None})
    return len(values)
