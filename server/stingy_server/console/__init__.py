"""The operator's page: keys, alarms, traffic, models and the ledger of a state, on loopback."""
