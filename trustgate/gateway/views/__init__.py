"""What is read rather than forwarded: account, credits, log, health, status, the page, the OpenAPI document."""
