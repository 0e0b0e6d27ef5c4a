"""The parts of an HTML page: figures as inline SVG, and tables that a script sorts."""
