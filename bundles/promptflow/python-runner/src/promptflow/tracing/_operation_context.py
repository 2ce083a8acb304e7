"""The context of a run as a dict whose keys are attributes."""

from contextvars import ContextVar


class OperationContext(dict):
    _current_context = ContextVar("operation_context", default=None)

    @classmethod
    def get_instance(cls):
        context = cls._current_context.get()
        if context is None:
            context = cls()
            cls._current_context.set(context)
        return context

    @classmethod
    def set_instance(cls, instance):
        cls._current_context.set(instance)

    def copy(self):
        return OperationContext(self)

    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name, value):
        if not isinstance(name, str):
            raise TypeError("Name must be a string")
        self[name] = value

    def __delattr__(self, name):
        if name not in self:
            raise AttributeError(name)
        del self[name]

    def get_user_agent(self):
        return " ".join(filter(None, [self.get("user_agent"), "promptflow-tracing/1.18.5"]))

    def append_user_agent(self, user_agent):
        current = self.get("user_agent")
        if current is None:
            self["user_agent"] = user_agent
        elif user_agent not in current:
            self["user_agent"] = f"{current.strip()} {user_agent.strip()}"

    def get_request_id(self):
        return self.get("request_id", "unknown")

    def get_context_dict(self):
        return dict(self)
