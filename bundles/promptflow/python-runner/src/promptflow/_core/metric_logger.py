"""Metrics of a run; the host decides whether they count."""


def log_metric(key, value, variant_id=None):
    """Records a metric, such as an accuracy, from an aggregation node."""
    from flowcell_runner import values
    from wit_world.imports import host

    try:
        text = values.dump(value)
    except Exception:
        try:
            text = values.dump(float(value))  # a number of another class: a Decimal, a numpy scalar
        except Exception:
            text = values.dump(repr(value))
    host.metric(values.without_surrogates(str(key)), text)
