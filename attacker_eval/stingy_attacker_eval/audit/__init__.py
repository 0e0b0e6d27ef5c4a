"""An audit: its protocol, what is bought, what is trained, and the folder it is kept in."""
