"""HTTP: the listener, the connection, TLS, and how a response is sent. A leaf: imports nothing of the gateway."""
