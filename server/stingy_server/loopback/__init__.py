"""Pages for one person on this machine: who may open them, and the server that has them."""
