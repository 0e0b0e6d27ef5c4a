"""TorchServe archives, and the handler that runs the gate in a TorchServe worker."""
