"""Attacks on the scores of answers bought once."""
