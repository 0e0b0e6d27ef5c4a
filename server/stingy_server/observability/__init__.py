"""Metrics, traces, logs and the record of one request."""
