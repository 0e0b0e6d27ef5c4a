"""The proof that a suspect model was trained on an endpoint's marked answers."""
