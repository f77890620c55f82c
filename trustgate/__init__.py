"""TrustGate: an OpenAI-compatible LLM gateway run from one command and one file."""

__version__ = "0.1.0"
