"""Batching and running a network in this process."""
