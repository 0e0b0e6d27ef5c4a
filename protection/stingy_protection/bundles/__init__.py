"""Bundles: a manifest, its weights, and the program that fuses both with the gate."""
