"""The objects of the API."""

from .completion import Completion
from .completion_choice import CompletionChoice
from .completion_usage import CompletionUsage
from .create_embedding_response import CreateEmbeddingResponse
from .embedding import Embedding
from .model import Model

__all__ = ["Completion", "CompletionChoice", "CompletionUsage", "CreateEmbeddingResponse", "Embedding", "Model"]
