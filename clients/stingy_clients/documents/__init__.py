"""The documents that a server and an audit share, though neither knows the other."""
