"""The gate: apply a policy to logits and check the policy's promises."""
