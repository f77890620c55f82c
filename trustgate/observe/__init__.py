"""Observation: counters, metrics, the request log, traces, live statistics."""
