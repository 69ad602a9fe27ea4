"""Every error that a user can meet. Each message says what is wrong, where, and what to do.

`Misuse` is for what the caller can fix (a wrong name, a wrong file, a model in train mode): exit code 2 on the
command line. `Failure` is for what went wrong although the call was right (NaN logits): exit code 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RegardError(Exception):
    """The root of Regard's errors; `exit_code` is what the command line returns."""

    exit_code = 1


class Misuse(RegardError, ValueError):
    """The call cannot be carried out as it was made."""

    exit_code = 2


class Failure(RegardError, RuntimeError):
    """The call was right, but its result cannot be given."""


class InputError(Misuse):
    """An input (file, picture, text, tensor) is missing, unreadable, empty or too long."""


class UnknownName(Misuse):
    """A name (method, label, model, option) is not known; the nearest known ones are given."""


class TargetError(Misuse):
    """The target cannot be read from the model's output."""


class ModelError(Misuse):
    """The model cannot be explained as it is (train mode, traced, no attention seen, a kernel that cannot be watched)."""


class NoAttention(ModelError):
    """No attention was seen in the model, so there is no map to follow."""


class Unmoved(ModelError):
    """The target has no gradient at any attention call."""


class OtherRows(ModelError):
    """A repeated run has rows of tokens that the recorded run had not: what is merged depends on the tokens' values."""

    def __init__(self) -> None:
        super().__init__(
            "this model merges other tokens when some are hidden from it, so attention cannot leave tokens out here; take "
            "them away at the input (occlusion, lime and shap_kernel do, by a baseline)"
        )


class TrailLost(Misuse):
    """It could not be followed whose tokens an attention call reads."""


class Contradicted(Failure):
    """`verify` found that rows of attention calls do not belong to the tokens that a map would name."""


class NonFinite(Failure):
    """The model's output, or a map, holds NaN or infinity."""


def nearest(name: str, known: Iterable[str], what: str) -> UnknownName:
    """An `UnknownName` that offers the closest of the known names (three at most; all of them where there are few)."""
    names = [str(k) for k in known]
    folded = {n.casefold(): n for n in names}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=3, cutoff=0.4)
    if close:
        hint = "did you mean " + " or ".join(repr(folded[c]) for c in close) + "?"
    elif names:
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        hint = f"known: {shown}"
    else:
        hint = "none are known"
    return UnknownName(f"unknown {what} {name!r}; {hint}")
