"""Clients of Azure OpenAI: deployments in the path, versions in the query, keys or tokens in headers."""

import os

from .._client import AsyncOpenAI, OpenAI
from .._exceptions import OpenAIError

# Where a deployment is asked; the others are the whole resource's.
_OF_DEPLOYMENTS = ("/chat/completions", "/completions", "/embeddings")


class _Azure:
    _own_settings = ("organization", "project", "azure_ad_token", "azure_ad_token_provider", "api_version")

    def __init__(self, *, api_version=None, azure_endpoint=None, azure_deployment=None, api_key=None, azure_ad_token=None,
                 azure_ad_token_provider=None, base_url=None, default_query=None, **given):  # fmt: skip
        environment = os.environ.get
        api_key = api_key if api_key is not None else environment("AZURE_OPENAI_API_KEY")
        azure_ad_token = azure_ad_token if azure_ad_token is not None else environment("AZURE_OPENAI_AD_TOKEN")
        if api_key is None and azure_ad_token is None and azure_ad_token_provider is None:
            raise OpenAIError(
                "there are no credentials: give the client api_key, azure_ad_token or azure_ad_token_provider, or set the "
                "environment variable AZURE_OPENAI_API_KEY or AZURE_OPENAI_AD_TOKEN"
            )
        api_version = api_version if api_version is not None else environment("OPENAI_API_VERSION")
        if api_version is None:
            raise ValueError("there is no api_version: give it to the client, or set the environment variable OPENAI_API_VERSION")
        if base_url is not None and azure_endpoint is not None:
            raise ValueError("base_url and azure_endpoint say the same thing: give one of them")
        if base_url is None:
            azure_endpoint = azure_endpoint if azure_endpoint is not None else environment("AZURE_OPENAI_ENDPOINT")
            if azure_endpoint is None:
                raise ValueError(
                    "there is no azure_endpoint: give it (or base_url) to the client, or set the environment variable "
                    "AZURE_OPENAI_ENDPOINT"
                )
            base_url = azure_endpoint.rstrip("/") + "/openai"
            if azure_deployment is not None:
                base_url += f"/deployments/{azure_deployment}"
        super().__init__(
            api_key=api_key if api_key is not None else "",
            base_url=base_url,
            default_query={**(default_query or {}), "api-version": api_version},
            **given,
        )
        self.api_version, self.azure_ad_token, self.azure_ad_token_provider = api_version, azure_ad_token, azure_ad_token_provider

    def _credentials(self):
        headers = yield from super()._credentials()
        token = self.azure_ad_token
        if token is None and self.azure_ad_token_provider is not None:
            token = yield self._ask, self.azure_ad_token_provider
            if not token or not isinstance(token, str):
                raise ValueError(f"azure_ad_token_provider gives a token, and not {token!r}")
        if token is not None:
            return {**headers, "authorization": f"Bearer {token}"}
        return {**headers, "api-key": self.api_key}

    def _url(self, call):
        own, deployments, _ = self.base_url.partition("/deployments/")
        if call.path in _OF_DEPLOYMENTS:
            model = call.body.get("model") if isinstance(call.body, dict) else None
            if model is not None and not deployments:
                return f"{self.base_url}deployments/{model}{call.path}"
        elif deployments and "://" not in call.path:
            return f"{own}/{call.path.lstrip('/')}"
        return super()._url(call)


class AzureOpenAI(_Azure, OpenAI):
    """As `OpenAI`, for Azure's resources.

    `azure_endpoint`, `api_version`, `api_key` and `azure_ad_token` are those of the environment where they are not given
    (AZURE_OPENAI_ENDPOINT, OPENAI_API_VERSION, AZURE_OPENAI_API_KEY, AZURE_OPENAI_AD_TOKEN). The model of a call is a
    deployment, unless the client has `azure_deployment`.
    """


class AsyncAzureOpenAI(_Azure, AsyncOpenAI):
    """As `AzureOpenAI`, with calls to be awaited. `azure_ad_token_provider` may be asynchronous."""
