"""The course of one query: its tier, its charge, its answer, and its refund."""
