"""Labelled images, and images to query with."""
