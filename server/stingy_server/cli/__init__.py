"""The `stingy` commands of the server."""
