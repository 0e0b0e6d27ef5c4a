"""The lab: teachers to attack, trained here and packed as bundles."""
