"""The stores themselves: SQLite and PostgreSQL, their tables, and their health."""
