"""An audit: its protocol, its purchases, its training runs, and its run folder."""
