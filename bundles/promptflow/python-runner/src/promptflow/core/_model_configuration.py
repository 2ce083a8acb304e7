"""Which model to ask, and how to reach it."""

from dataclasses import dataclass

from promptflow.core._errors import InvalidConnectionError


class ModelConfiguration:
    @classmethod
    def from_connection(cls, connection, **kwargs):
        raise NotImplementedError()

    def _check(self, *reaching):
        if any(reaching) and self.connection:
            raise InvalidConnectionError("Cannot configure model config and connection at the same time.")


@dataclass
class AzureOpenAIModelConfiguration(ModelConfiguration):
    azure_deployment: str
    azure_endpoint: str = None
    api_version: str = None
    api_key: str = None
    connection: str = None

    def __post_init__(self):
        self._type = "AzureOpenAI"
        self._check(self.azure_endpoint, self.api_key, self.api_version)

    @classmethod
    def from_connection(cls, connection, azure_deployment):
        return cls(azure_deployment, connection.api_base, connection.api_version, connection.api_key)


@dataclass
class OpenAIModelConfiguration(ModelConfiguration):
    model: str
    base_url: str = None
    api_key: str = None
    organization: str = None
    connection: str = None

    def __post_init__(self):
        self._type = "OpenAI"
        self._check(self.base_url, self.api_key, self.organization)

    @classmethod
    def from_connection(cls, connection, model):
        return cls(model, connection.base_url, connection.api_key, connection.organization)


@dataclass
class PromptyModelConfiguration:
    """The model of a prompty: where it is, its parameters, its API, and how much of its answer the caller gets."""

    configuration: dict | AzureOpenAIModelConfiguration | OpenAIModelConfiguration
    parameters: dict
    api: str = "chat"
    response: str = "first"

    def __post_init__(self):
        if not isinstance(self.configuration, dict):
            azure = isinstance(self.configuration, AzureOpenAIModelConfiguration)
            self._model = self.configuration.azure_deployment if azure else self.configuration.model
            return
        fields = {**self.configuration}
        is_named = bool(fields.pop("connection", None))
        fields.pop("type", None)
        deployment, model = fields.pop("azure_deployment", None), fields.pop("model", None)
        self._model = deployment or model
        if is_named and any(fields.values()):
            raise InvalidConnectionError("Cannot configure model config and connection in configuration at the same time.")
