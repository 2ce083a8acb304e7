"""Metrics of a run; the host decides whether they count."""


def log_metric(key, value, variant_id=None):
    """Records a metric, such as an accuracy, from an aggregation node."""
    from flowcell_runner import values
    from wit_world.imports import host

    text = values.to_json(value)
    if text is None:
        try:
            text = values.to_json(_finite(value))
        except Exception:
            text = None
    host.metric(values.without_surrogates(str(key)), text if text is not None else values.to_json(repr(value)))


def _finite(value):
    """A number of another class (a Decimal, a numpy scalar) as a float."""
    return float(value)
