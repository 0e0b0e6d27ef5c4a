"""The serving process: workers, the HTTP protocol's limits, garbage collection, core dumps."""
