"""What stands for "not given", and how long to wait."""


class NotGiven:
    """A parameter that was left out, where None would mean something."""

    def __bool__(self):
        return False

    def __repr__(self):
        return "NOT_GIVEN"


class Omit:
    """In the place of a header or parameter that would be sent otherwise."""

    def __bool__(self):
        return False


NOT_GIVEN = not_given = NotGiven()
omit = Omit()


def is_given(value):
    return not isinstance(value, (NotGiven, Omit))


class Timeout:
    """Seconds until a connection has to be made, and the longest silence while something is read; None is without end."""

    def __init__(self, timeout=NOT_GIVEN, *, connect=NOT_GIVEN, read=NOT_GIVEN, write=NOT_GIVEN, pool=NOT_GIVEN):
        default = timeout if is_given(timeout) else None
        self.connect, self.read, self.write, self.pool = (
            given if is_given(given) else default for given in (connect, read, write, pool)
        )

    @classmethod
    def of(cls, value):
        """What users give: a number, None, or an object with `connect` and `read`, as httpx has one."""
        if value is None or isinstance(value, (int, float)):
            return cls(value)
        if isinstance(value, tuple):
            return cls(connect=value[0], read=value[1] if len(value) > 1 else value[0])
        return value

    def __eq__(self, other):
        return isinstance(other, Timeout) and vars(self) == vars(other)

    def __repr__(self):
        return f"Timeout(connect={self.connect}, read={self.read}, write={self.write}, pool={self.pool})"


DEFAULT_TIMEOUT = Timeout(600, connect=5.0)
DEFAULT_MAX_RETRIES = 2
