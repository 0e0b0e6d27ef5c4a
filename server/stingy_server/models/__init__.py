"""Models: from a bundle to an endpoint that answers."""
