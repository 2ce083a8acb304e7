"""Connections as tools see them: settings in `configs`, secrets (or what stands for them) in `secrets`."""

import os

from promptflow.contracts.types import Secret
from promptflow.exceptions import UserErrorException, ValidationException

_SCRUBBED = "******"


class _Connection:
    """A named set of settings and secrets."""

    TYPE = "NotSet"

    def __init__(self, name=None, module="promptflow.connections", configs=None, secrets=None, **kwargs):
        self.name = name
        self.type = self.TYPE
        self.class_name = f"{self.TYPE}Connection"
        self.module = module
        self.configs = configs or {}
        self.secrets = secrets or {}
        self.expiry_time = kwargs.get("expiry_time")
        self.created_date = kwargs.get("created_date")
        self.last_modified_date = kwargs.get("last_modified_date")

    def keys(self):
        """With `__getitem__` this makes `**connection` work."""
        return [*self.configs, *self.secrets]

    def __getitem__(self, key):
        for values in (self.secrets, self.configs):
            if key in values:
                return values[key]
        raise KeyError(f"Key {key!r} not found in connection {self.name!r}.")


def _config(key):
    """A property that is one of the connection's settings."""

    def get(connection):
        return connection.configs.get(key)

    def put(connection, value):
        connection.configs[key] = value

    return property(get, put)


class _StrongTypeConnection(_Connection):
    @property
    def _has_api_key(self):
        return True

    @property
    def api_key(self):
        return self.secrets.get("api_key", _SCRUBBED) if self._has_api_key else None

    @api_key.setter
    def api_key(self, value):
        self.secrets["api_key"] = value


class _EntraConnection(_StrongTypeConnection):
    """A connection that may use an identity instead of a key: then it has what stands for a token, or why there is none."""

    def __init__(self, configs, api_key, token=None, no_token=None, **kwargs):
        if configs["auth_mode"] == "key":
            super().__init__(configs=configs, secrets={"api_key": api_key}, **kwargs)
            return
        configs = {**configs, "no_token": no_token} if no_token else configs
        super().__init__(configs=configs, secrets={"token": token} if token else {}, **kwargs)

    @property
    def _has_api_key(self):
        return self.auth_mode == "key"

    @property
    def auth_mode(self):
        return self.configs.get("auth_mode", "key")

    @auth_mode.setter
    def auth_mode(self, value):
        self.configs["auth_mode"] = value

    def get_token(self):
        """What stands for the token of the session's identity, as for any secret."""
        if "token" in self.secrets:
            return self.secrets["token"]
        why = self.configs.get("no_token", f"connection {self.name!r} has no token of an identity")
        raise UserErrorException(why)


class AzureOpenAIConnection(_EntraConnection):
    TYPE = "AzureOpenAI"

    def __init__(
        self,
        api_base,
        api_key=None,
        api_type="azure",
        api_version="2024-02-01",
        auth_mode="key",
        resource_id=None,
        **kwargs,
    ):
        configs = {
            "api_base": api_base,
            "api_type": api_type,
            "api_version": api_version,
            "auth_mode": auth_mode,
            "resource_id": resource_id,
        }
        super().__init__(configs, api_key, **kwargs)

    api_base, api_type, api_version = _config("api_base"), _config("api_type"), _config("api_version")
    resource_id = _config("resource_id")

    @classmethod
    def from_env(cls, name=None):
        required = _environment(cls, "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY")
        version = os.getenv("OPENAI_API_VERSION")
        return cls(*required, name=name, **({"api_version": version} if version else {}))


class OpenAIConnection(_StrongTypeConnection):
    TYPE = "OpenAI"

    def __init__(self, api_key, organization=None, base_url=None, **kwargs):
        base_url = None if base_url in ("", "_") else base_url  # what the service writes for "none"
        configs = {"organization": organization, "base_url": base_url}
        super().__init__(configs=configs, secrets={"api_key": api_key}, **kwargs)

    organization, base_url = _config("organization"), _config("base_url")

    @classmethod
    def from_env(cls, name=None):
        (api_key,) = _environment(cls, "OPENAI_API_KEY")
        return cls(api_key, os.getenv("OPENAI_ORG_ID"), os.getenv("OPENAI_BASE_URL"), name=name)


def _environment(connection_class, *names):
    values = [os.getenv(name) for name in names]
    if None in values:
        from promptflow.core._errors import RequiredEnvironmentVariablesNotSetError

        raise RequiredEnvironmentVariablesNotSetError(list(names), connection_class.__name__)
    return values


class ServerlessConnection(_StrongTypeConnection):
    TYPE = "Serverless"

    def __init__(self, api_key, api_base, **kwargs):
        super().__init__(secrets={"api_key": api_key}, configs={"api_base": api_base}, **kwargs)

    api_base = _config("api_base")


class SerpConnection(_StrongTypeConnection):
    TYPE = "Serp"

    def __init__(self, api_key, **kwargs):
        super().__init__(secrets={"api_key": api_key}, **kwargs)


class QdrantConnection(_StrongTypeConnection):
    TYPE = "Qdrant"

    def __init__(self, api_key, api_base, **kwargs):
        super().__init__(configs={"api_base": api_base}, secrets={"api_key": api_key}, **kwargs)

    api_base = _config("api_base")


class WeaviateConnection(QdrantConnection):
    TYPE = "Weaviate"


class CognitiveSearchConnection(_EntraConnection):
    TYPE = "CognitiveSearch"

    def __init__(self, api_base, api_key=None, api_version="2023-11-01", auth_mode="key", **kwargs):
        configs = {"api_base": api_base, "api_version": api_version, "auth_mode": auth_mode}
        super().__init__(configs, api_key, **kwargs)

    api_base, api_version = _config("api_base"), _config("api_version")


class AzureAIServicesConnection(_EntraConnection):
    TYPE = "AzureAIServices"

    def __init__(self, endpoint, api_key=None, auth_mode="key", **kwargs):
        configs = {"endpoint": endpoint, "auth_mode": auth_mode}
        super().__init__(configs, api_key, **kwargs)

    endpoint = _config("endpoint")


class AzureContentSafetyConnection(_StrongTypeConnection):
    TYPE = "AzureContentSafety"

    def __init__(self, api_key, endpoint, api_version="2023-10-01", api_type="Content Safety", **kwargs):
        configs = {"endpoint": endpoint, "api_version": api_version, "api_type": api_type}
        super().__init__(configs=configs, secrets={"api_key": api_key}, **kwargs)

    endpoint, api_version, api_type = _config("endpoint"), _config("api_version"), _config("api_type")


class FormRecognizerConnection(AzureContentSafetyConnection):
    TYPE = "FormRecognizer"

    def __init__(self, api_key, endpoint, api_version="2023-07-31", api_type="Form Recognizer", **kwargs):
        super().__init__(api_key, endpoint, api_version, api_type, **kwargs)


class CustomConnection(_Connection):
    """Settings and secrets of the user's choosing, which are attributes too."""

    TYPE = "Custom"

    def __init__(self, secrets, configs=None, **kwargs):
        super().__init__(secrets=secrets, configs=configs, **kwargs)

    def __getattr__(self, key):
        # Copying and unpickling ask for attributes before there are any.
        if key not in ("secrets", "configs"):
            for values in (self.secrets, self.configs):
                if key in values:
                    return values[key]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {key!r}")

    def is_secret(self, key):
        return key in self.secrets


class CustomStrongTypeConnection(_Connection):
    """The base of a user's own connection class, whose annotations say which keys are secrets."""

    def __init__(self, secrets, configs=None, **kwargs):
        super().__init__(configs=configs, secrets=secrets, **kwargs)
        self.custom_type = kwargs.get("custom_type") or type(self).__name__
        self.package = kwargs.get("package")
        self.package_version = kwargs.get("package_version")

    def __getattribute__(self, key):
        # A class attribute with the key's name is a default for editors, not the value.
        get = super().__getattribute__
        annotations = getattr(get("__class__"), "__annotations__", {})
        if key in annotations:
            return get("secrets" if annotations[key] == Secret else "configs")[key]
        return get(key)

    def __setattr__(self, key, value):
        annotations = getattr(type(self), "__annotations__", {})
        if key in annotations:
            (self.secrets if annotations[key] == Secret else self.configs)[key] = value
        super().__setattr__(key, value)

    @classmethod
    def from_custom(cls, connection):
        """This class's view of a custom connection; what is none stays as it is."""
        if type(connection) is CustomConnection:
            return cls(connection.secrets, connection.configs, name=connection.name)
        return connection


_CLASSES = {
    value.__name__: value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, _Connection)
}
__all__ = [name for name in _CLASSES if not name.startswith("_")]


def is_connection_class(candidate):
    return isinstance(candidate, type) and issubclass(candidate, _Connection)


def is_connection(value):
    return isinstance(value, _Connection)


def connection_from(data):
    """The connection that the host describes: `type`, `name`, and the fields or `configs` and `secrets`."""
    connection_class = _CLASSES.get(data.get("type"))
    if connection_class is None or connection_class.__name__.startswith("_"):
        supported = [name.removesuffix("Connection") for name in __all__]
        raise ValidationException(f"Connection type {data.get('type')!r} is not supported. Supported types are: {supported}")
    fields = {key: value for key, value in data.items() if key not in ("type", "name", "configs", "secrets")}
    configs, secrets = data.get("configs") or {}, data.get("secrets") or {}
    if issubclass(connection_class, (CustomConnection, CustomStrongTypeConnection)):
        return connection_class(secrets={**secrets}, configs={**configs, **fields}, name=data.get("name"))
    return connection_class(name=data.get("name"), **{**configs, **secrets, **fields})
