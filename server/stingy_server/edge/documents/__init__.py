"""The documents that routes exchange, as OpenAPI describes them."""
