"""Importers: from what people have to a bundle. Invariant: a source's code is never in a bundle."""
