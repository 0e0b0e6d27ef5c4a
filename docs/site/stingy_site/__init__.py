"""The parts of the docs site: staged Markdown, references, the policy explorer, notebooks.

Invariant: a page has no request to another host, and the site is the Markdown of this repository.
"""
