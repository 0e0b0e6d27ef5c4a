"""Attacks that query several views of each image."""
