"""Upkeep of the state on its host: backup, restore, check, and the chains of the ledger."""
