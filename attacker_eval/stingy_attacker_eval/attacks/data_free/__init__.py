"""Attacks of attackers without images: a generator makes them."""
