"""Access: who may call (keys, tenants, plans) and how much (quotas). In memory; the store is behind it."""
