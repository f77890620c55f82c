"""What the tests share: real gateways, a scripted upstream, a real LiteLLM proxy."""
