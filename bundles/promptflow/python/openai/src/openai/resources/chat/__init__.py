"""Conversations with models."""

import functools

from .completions import AsyncCompletions, Completions


class Chat:
    _completions = Completions

    def __init__(self, client):
        self._client = client

    @functools.cached_property
    def completions(self):
        return self._completions(self._client)


class AsyncChat(Chat):
    _completions = AsyncCompletions


__all__ = ["AsyncChat", "AsyncCompletions", "Chat", "Completions"]
