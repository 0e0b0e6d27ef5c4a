"""Attacks that choose which images to query."""
