"""Answers as objects: their fields are attributes, declared by annotations, without checks of what the service sent."""

import copy
import functools
import inspect
import json
import typing

_REQUIRED = object()


class BaseModel:
    """An object of the API. Fields that the API has and the class has not are attributes too."""

    # What was given, unlike what has its default; and the answer's own identifier.
    __slots__ = ("__dict__", "__weakref__", "_given", "_request_id")

    def __init__(self, /, **values):
        self._given = set(values)
        fields = self.__dict__
        for name, (models, default) in _fields_of(type(self)).items():
            if name in values:
                fields[name] = _built(models, values[name])
            elif default is not _REQUIRED:
                fields[name] = default
        for name, value in values.items():
            fields.setdefault(name, value)

    @classmethod
    def construct(cls, _fields_set=None, **values):
        return cls(**values)

    model_construct = construct

    @classmethod
    def model_validate(cls, obj, **_):
        return obj if isinstance(obj, cls) else cls(**obj)

    @property
    def model_fields_set(self):
        return {name for name in self._given if name in _fields_of(type(self))}

    @property
    def model_extra(self):
        return {name: value for name, value in self.__dict__.items() if name not in _fields_of(type(self))}

    def model_dump(
        self, *, mode="python", include=None, exclude=None, exclude_unset=False, exclude_defaults=False, exclude_none=False, **_
    ):
        """The fields as plain values. `include` and `exclude` are names of this object's own fields."""
        below = dict(mode=mode, exclude_unset=exclude_unset, exclude_defaults=exclude_defaults, exclude_none=exclude_none)
        known, dumped = _fields_of(type(self)), {}
        for name, value in self.__dict__.items():
            if (include is not None and name not in include) or (exclude is not None and name in exclude):
                continue
            if (exclude_none and value is None) or (exclude_unset and name not in self._given):
                continue
            if exclude_defaults and name in known and value == known[name][1]:
                continue
            dumped[name] = _dumped(value, below)
        return dumped

    def model_dump_json(self, *, indent=None, **options):
        separators = (",", ":") if indent is None else None
        return json.dumps(self.model_dump(mode="json", **options), indent=indent, separators=separators, ensure_ascii=False)

    def to_dict(self, *, mode="python", exclude_unset=True, **options):
        return self.model_dump(mode=mode, exclude_unset=exclude_unset, **options)

    def to_json(self, *, indent=2, exclude_unset=True, **options):
        return self.model_dump_json(indent=indent, exclude_unset=exclude_unset, **options)

    def model_copy(self, *, update=None, deep=False):
        copied = copy.deepcopy(self) if deep else copy.copy(self)
        copied._given = self._given | set(update or ())
        copied.__dict__.update(update or {})
        return copied

    def dict(self, **options):
        return self.model_dump(**options)

    def json(self, **options):
        return self.model_dump_json(**options)

    def __copy__(self):
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        copied._given = set(self._given)
        return copied

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name in self.__dict__:
            self._given.add(name)

    def __iter__(self):
        return iter(self.__dict__.items())

    def __eq__(self, other):
        return type(other) is type(self) and self.__dict__ == other.__dict__

    __hash__ = None

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"


@functools.cache
def _fields_of(kind):
    """Of each declared field: the classes that its objects can have, and its default."""
    fields = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            for name, annotation in inspect.get_annotations(base).items():
                fields[name] = (_models_in(annotation), vars(base).get(name, _REQUIRED))
    return fields


def _models_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in _models_in(inner)]


def _built(models, value):
    if not models:
        return value
    if isinstance(value, list):
        return [_built(models, item) for item in value]
    return _model_for(models, value)(**value) if isinstance(value, dict) else value


def _model_for(models, value):
    for model in models:
        if all(name in value for name, (_, default) in _fields_of(model).items() if default is _REQUIRED):
            return model
    return models[0]


def _dumped(value, options):
    if isinstance(value, BaseModel):
        return value.model_dump(**options)
    if isinstance(value, (list, tuple)):
        return [_dumped(item, options) for item in value]
    if isinstance(value, dict):
        return {key: _dumped(item, options) for key, item in value.items()}
    return value
