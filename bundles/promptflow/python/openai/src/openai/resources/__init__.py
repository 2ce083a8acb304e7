"""The parts of the API that are here."""

from .chat import AsyncChat, Chat
from .completions import AsyncCompletions, Completions
from .embeddings import AsyncEmbeddings, Embeddings
from .models import AsyncModels, Models

__all__ = [
    "AsyncChat", "AsyncCompletions", "AsyncEmbeddings", "AsyncModels", "Chat", "Completions", "Embeddings", "Models",
]  # fmt: skip
