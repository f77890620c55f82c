"""Upstreams: the client that sends a request to an LLM server, its targets, transport and health probe."""
