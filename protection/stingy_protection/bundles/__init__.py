"""Bundles: a manifest, its weights, and the fused program of both with the gate."""
