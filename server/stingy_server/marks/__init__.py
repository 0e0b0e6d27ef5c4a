"""Marks: answers by which a model that was trained from them is recognised."""
