"""The built-in model ``trustgate/echo``: an LLM server inside this process, without a network.

Owns what it answers. It is not a language model: by fixed rules (``models.echo.answering``) it repeats the last message
of the user, calls the tools that are asked for by name, and fills in JSON schemas, so that SDKs and coding agents can
be tried offline. Chat completions, completions, Responses, Messages and embeddings are served, whole and streamed.

``EchoTransport`` is an HTTPX transport, so it stands wherever a connection to a real server would.
"""

from __future__ import annotations

from trustgate.models.echo.embeddings import EMBEDDING_DIMENSIONS
from trustgate.models.echo.forms import ECHO_MODEL
from trustgate.models.echo.transport import EchoTransport

__all__ = ["ECHO_MODEL", "EMBEDDING_DIMENSIONS", "EchoTransport"]
