"""The tables of the server's commands."""
