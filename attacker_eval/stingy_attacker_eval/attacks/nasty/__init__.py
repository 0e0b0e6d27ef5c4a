"""Attacks that were published against nasty teachers."""
