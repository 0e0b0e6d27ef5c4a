"""The HTTP edge: limits, routes, and the form of answers for each tier."""
