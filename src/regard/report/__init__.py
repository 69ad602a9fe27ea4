"""Explanation -> picture file, self-contained page, terminal. Nothing here computes a score.

`colour` says what a colour means, `view` says what there is to draw, `receipt` says the receipt in plain language;
`png`, `html` and `terminal` draw. Drawing needs `regard[viz]`; importing this package does not.
"""

from __future__ import annotations

import importlib

from regard.errors import Misuse

MODULES = {"viz": ("matplotlib", "PIL", "jinja2"), "cli": ("typer", "rich")}


def need(extra: str = "viz") -> None:
    """Raise one clear error, with the line that mends it, when a package of the extra is not installed."""
    for module in MODULES[extra]:
        try:
            importlib.import_module(module)
        except ImportError as e:
            raise Misuse(f"this needs {module}, which cannot be imported ({e}): pip install 'regard[{extra}]'") from e
