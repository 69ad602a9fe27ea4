"""How sites and baselines are spelt in words: `block[3]`, `blur:5`, `zero:local`. The command line and readers read them here.

A word that is not understood is a Misuse that says what would be.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from regard.baseline import Baseline
from regard.errors import Misuse, nearest
from regard.site import Site

KINDS = ("zero", "black", "white", "mean", "blur", "noise", "mask", "pad")
"""Names of baselines, as `baseline` reads them."""
PLACES = ("input", "embeddings", "block", "attention")
NUMBERED = re.compile(r"([a-z]+)(?:\[([^\[\]]*)\]|:([^\[\]:]*))?", re.IGNORECASE)

TokenId = Callable[[str], int]
"""The id of a reader's "mask" or "pad" token."""


def site(text: str) -> Site:
    """`input`, `embeddings`, `block[3]` or `block:3` (negative numbers count from the end), `attention[2]`, `attention:all`.

    >>> site("block:-2").label
    'block[-2]'
    """
    read = NUMBERED.fullmatch(text.strip())
    name = read[1].casefold() if read else text.strip()
    if read is None or name not in PLACES:
        raise nearest(name, ("input", "embeddings", "block[L]", "attention[C]", "attention:all"), "site")
    number = read[2] if read[2] is not None else read[3]
    if name in ("input", "embeddings"):
        if number is not None:
            raise Misuse(f"site {name!r} takes no number, as {text.strip()!r} has; write {name}")
        return Site.input() if name == "input" else Site.embeddings()
    if name == "attention" and number is not None and number.strip().casefold() == "all":
        return Site.attention(joint=True)
    if number is None or not re.fullmatch(r"\s*-?[0-9]{1,9}\s*", number):
        more = ", or attention:all for all calls together" if name == "attention" else "; block[-1] is the last"
        raise Misuse(f"site {text.strip()!r} needs the number of its {_thing(name)}, as in {name}[1]{more}")
    return Site.block(int(number)) if name == "block" else Site.attention(int(number))


def baseline(text: str, token_id: TokenId) -> Baseline:
    """`zero`, `black`, `white`, `mean`, `blur` or `blur:SIGMA`, `noise` or `noise:SEED`, `mask`, `pad`; `zero:local`.

    >>> baseline("blur:5", int).label
    'blur, sigma 5'
    """
    kind, value, local = parts(text)
    if kind in ("mask", "pad"):
        of = Baseline.mask_token if kind == "mask" else Baseline.pad_token
        return of(token_id(kind))
    made: dict[str, Callable[[], Baseline]] = {
        "zero": Baseline.zero,
        "black": Baseline.black,
        "white": Baseline.white,
        "mean": Baseline.mean,
        "blur": lambda: Baseline.blur() if value is None else Baseline.blur(value),
        "noise": lambda: Baseline.noise() if value is None else Baseline.noise(int(value)),
    }
    return made[kind]().local() if local else made[kind]()


def parts(text: str) -> tuple[str, float | None, bool]:
    """A baseline's kind, its number if it has one, and whether it is local. Raises as `baseline` does, but for the ids."""
    kind, *rest = [part.strip().casefold() for part in text.split(":")]
    if kind not in KINDS:
        raise nearest(kind, KINDS, "baseline")
    local = rest[-1:] == ["local"]
    numbers = rest[:-1] if local else rest
    if local and kind != "zero":
        raise Misuse(f"baseline {text!r}: only zero has a local form, zero at the site itself; write zero:local")
    if numbers and kind not in ("blur", "noise"):
        raise Misuse(f"baseline {text!r} is not understood: {kind} takes no number")
    if len(numbers) > 1:
        raise Misuse(f"baseline {text!r} is not understood: {kind} takes one number")
    return kind, _number(kind, numbers[0]) if numbers else None, local


def _number(kind: str, text: str) -> float:
    if kind == "noise":
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise Misuse(f"noise:{text} is not understood: its seed is a whole number, as in noise:1")
        return int(text)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise Misuse(f"blur:{text} is not understood: its sigma is a positive number of pixels, as in blur:10")
    return value


def _thing(name: str) -> str:
    return "attention call" if name == "attention" else "block"


__all__ = ["KINDS", "TokenId", "baseline", "parts", "site"]
