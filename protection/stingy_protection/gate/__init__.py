"""The gate: apply a policy to logits and check what it promised."""
