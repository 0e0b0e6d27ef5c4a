"""The study of marks: which thieves they find, and how many innocents they accuse."""
