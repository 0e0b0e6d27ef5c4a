"""The pages of the four packages: every public name, from its docstring."""

from importlib import import_module
from inspect import isclass, isfunction

PACKAGES = {
    "stingy_clients": "Client",
    "stingy_protection": "Protection",
    "stingy_server": "Server",
    "stingy_attacker_eval": "Audit",
}


def python_page(package: str) -> str:
    """Write the page of a package, for Sphinx to fill from the docstrings."""
    module = import_module(package)
    parts = [f"# `{package}`", (module.__doc__ or "").strip()]
    for name in module.__all__:
        value = getattr(module, name)
        if isclass(value):
            kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
        else:
            kind = "autofunction" if isfunction(value) else "autodata"
        options = "\n   :members:" if kind == "autoclass" else ""
        directive = f".. {kind}:: {package}.{name}{options}"
        parts.append(f"## `{name}`\n\n```{{eval-rst}}\n{directive}\n```")
    return "\n\n".join(parts) + "\n"
