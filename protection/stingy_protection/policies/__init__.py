"""Policies: each decides what may leave of an answer."""
