"""The analysis of an audit's results, and the pages and tables that show it."""
