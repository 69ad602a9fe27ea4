"""What can be explained of a token that a model writes."""

from __future__ import annotations

TARGETS = ("logit", "log_probability", "contrast")

__all__ = ["TARGETS"]
