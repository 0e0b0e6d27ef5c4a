"""What the results of an audit say, and the pages and tables that say it."""
