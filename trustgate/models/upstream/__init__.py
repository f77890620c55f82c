"""Upstreams: the client that sends a request to a model server, its targets, transport and health probe."""
