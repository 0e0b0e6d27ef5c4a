"""The HTTP edge: limits, routes and the answers a tier may see."""
