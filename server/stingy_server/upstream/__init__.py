"""Model servers elsewhere: HTTP, tensors, and the engine in front of them."""
