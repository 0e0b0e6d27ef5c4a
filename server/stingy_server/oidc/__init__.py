"""Tokens of an identity provider as callers: their signatures, their claims, their principals."""
