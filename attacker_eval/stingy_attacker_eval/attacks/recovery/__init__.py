"""Attacks that recover what a policy changed or withheld."""
