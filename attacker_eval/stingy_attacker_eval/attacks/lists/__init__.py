"""Attacks on the order of the answered classes, and on the answers of several tiers."""
