"""Explanation -> picture file, self-contained page, terminal. Nothing here computes a score.

`colour` says what a colour means, `view` says what there is to draw, `receipt` says the receipt in plain language;
`png`, `html` and `terminal` draw. Drawing needs `regard[viz]`; importing this package does not.
"""

from __future__ import annotations

from regard.extras import need

__all__ = ["need"]
