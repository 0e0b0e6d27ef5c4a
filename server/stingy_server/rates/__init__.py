"""The rates of keys, exact in any window, in memory or in Redis."""
