"""Which methods do best at which task in our own tables: what `method="auto"` stands for."""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "auto"
GAE = "gae"


@dataclass(frozen=True)
class Preferred:
    """The methods for a task: the best first, then those that take options which it does not.

    Attributes:
        task: what is explained, in words. names: of the methods. why: what the best does, and the table that shows it.
    """

    task: str
    names: tuple[str, ...]
    why: str


PREFERRED = {
    "text": Preferred(
        "texts", ("cp_lrp", "integrated_gradients", GAE), "it finds the words that decide best (docs/results.md)"
    ),
    "prompt": Preferred(
        "prompts",
        ("cp_lrp", "integrated_gradients", GAE),
        "it finds the token that decides the next one where that is known (docs/known-answers.md)",
    ),
    "caption": Preferred(
        "words about a picture",
        ("attnlrp", "integrated_gradients", GAE),
        "it points best at what each word speaks of (docs/vlm.md)",
    ),
    "picture": Preferred(
        "pictures",
        (GAE, "revised_ig", "integrated_gradients", "attnlrp"),
        "it points best at what speaks for one class rather than another (docs/results.md)",
    ),
    "": Preferred("all else", (GAE, "integrated_gradients", "attnlrp"), "no table of ours tells methods apart there"),
}
"""By task; "" stands for all that we have no table for."""
KNOWN = frozenset(name for preferred in PREFERRED.values() for name in preferred.names)
"""The methods that `auto` may stand for."""


__all__ = ["AUTO", "GAE", "KNOWN", "PREFERRED", "Preferred"]
