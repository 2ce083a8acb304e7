"""The models of a service."""

from urllib.parse import quote

from .._models import BaseModel
from ..types import Model
from ._resource import Resource


class ModelsPage(BaseModel):
    """All models: the API gives them in one page, which can be gone through."""

    data: list[Model]
    object: str

    def __iter__(self):
        return iter(getattr(self, "data", None) or ())


class _Awaited:
    """The page of an asynchronous client: `await` gives it, `async for` its models."""

    def __init__(self, page):
        self._page = page

    def __await__(self):
        return self._page.__await__()

    async def __aiter__(self):
        for model in await self._page:
            yield model


class Models(Resource):
    _elsewhere = Resource._elsewhere | {"delete"}

    def list(self, **options):
        return self._client.get("/models", cast_to=ModelsPage, raw=self._is_raw, **options)

    def retrieve(self, model, **options):
        return self._client.get(f"/models/{quote(model)}", cast_to=Model, raw=self._is_raw, **options)


class AsyncModels(Models):
    """As `Models`; what its calls give is to be awaited."""

    def list(self, **options):
        return _Awaited(super().list(**options))
