"""Policies: what may leave of one answer, and the kit that checks a third party's."""
