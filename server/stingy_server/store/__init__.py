"""The state: keys, budgets, rates, the ledger and deployments, in SQLite or PostgreSQL."""
