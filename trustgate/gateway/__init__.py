"""The gateway: the request path of eleven steps (``pipeline``) and the ASGI application around it."""
