"""The API that is served: one description for each endpoint, and the parsing of what clients send to it."""
