"""Image files and Open Inference Protocol tensors, from and to bytes."""
