"""What a proof of provenance found, and how it reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from regard.errors import Contradicted

OFF, APART, WHOLE = "of its gradient", "apart", ""


@dataclass(frozen=True)
class Contradiction:
    """Rows that are not what they are said to be. call: its number, or None (scores' operands, final states).

    share: of the gradient, how much sits off the claim (`of`: "of its gradient"); or how far two numbers that must agree are
    apart, relatively ("apart"); or 1, of what is not so at all ("").
    """

    call: int | None
    module: str
    side: str
    claimed: str
    found: str
    share: float
    of: str = OFF

    def __str__(self) -> str:
        share = f" ({_percent(self.share)} {self.of})" if self.of else ""
        where = f"call {self.call}" if self.call is not None else "outside of calls"
        where += f" ({self.module})" if self.module else ""
        return f"{where}, {self.side}: said to be {self.claimed}, but {self.found}{share}"


@dataclass(frozen=True)
class Mixed:
    """Tokens that operations outside attention mix, as is known: about which share of a row is of other tokens."""

    stream: str
    by: str
    share: float

    def __str__(self) -> str:
        return f"{self.by} mixes in about {_percent(self.share)} from other tokens of {self.stream}"


@dataclass(frozen=True)
class Verification:
    """What `regard.verify` found; true if nothing contradicts the tokens that maps name.

    claims: how many were tested (row of a side of a call -> tokens). untested: what was not, and why, in sentences. mixed:
    how much is known to be mixed outside attention. passes: the forward passes and gradients that it took.
    """

    claims: int
    calls: int
    contradictions: list[Contradiction]
    untested: list[str]
    mixed: list[Mixed]
    passes: int

    @property
    def ok(self) -> bool:
        """Whether nothing was contradicted (what is untested may still be wrong)."""
        return not self.contradictions

    def __bool__(self) -> bool:
        return self.ok

    def check(self) -> Verification:
        """The same object. Raises Contradicted if anything is contradicted."""
        if self.contradictions:
            more = f" (and {len(self.contradictions) - 1} more)" if len(self.contradictions) > 1 else ""
            remedy = ", and say whose tokens they are with streams=" if self.contradictions[0].of == OFF else ""
            raise Contradicted(
                f"tokens were followed wrongly, and a map would be wrong, too: {self.contradictions[0]}{more}; see "
                f"regard.verify(model, inputs){remedy}"
            )
        return self

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.contradictions:
            n = len(self.contradictions)
            return f"{n} contradiction{'s' if n > 1 else ''}: maps of this model and input would be wrong"
        if not self.claims:
            return "nothing could be tested"
        calls = f"{self.calls} attention call{'' if self.calls == 1 else 's'}"
        tested = f"{self.claims} rows in and around {calls} rest on the tokens that maps name"
        return tested + ("; some could not be tested" if self.untested else "")

    @property
    def notes(self) -> list[str]:
        """What a receipt says of it."""
        rows = [f"{self._word}: {self.verdict}"]
        return rows + [str(m) for m in self.mixed] + [f"untested, {u}" for u in _together(self.untested)]

    @property
    def _word(self) -> str:
        return "WRONG" if not self.ok else "verified" if self.claims else "untested"

    def __str__(self) -> str:
        rows = [(self._word, self.verdict)]
        rows += [("wrong", str(c)) for c in self.contradictions]
        rows += [("mixed", str(m)) for m in self.mixed]
        rows += [("untested", u) for u in _together(self.untested)]
        rows += [("cost", f"{self.passes} passes (forward passes and gradients)")]
        return "\n".join(f"{a:<9} {b}" for a, b in rows)

    __repr__ = __str__


def _together(sentences: Sequence[str]) -> list[str]:
    """`call 0: why`, `call 1: why` -> `call 0, 1: why`; the same of all that ends in `call` and a number."""
    found: dict[str, dict[str, list[int]]] = {}
    for what, _, why in (s.partition(": ") for s in sentences):
        stem, number = (m[1], [int(m[2])]) if (m := re.fullmatch(r"(.*\bcall) (\d+)", what)) else (what, [])
        known = found.setdefault(why, {}).setdefault(stem, [])
        known += [n for n in number if n not in known]
    return [f"{', '.join(f'{stem} {_ranges(n)}'.rstrip() for stem, n in w.items())}: {why}" for why, w in found.items()]


def _ranges(numbers: Sequence[int]) -> str:
    """`0, 2 to 5`: three numbers in a row, or more, are a range."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and runs[-1][-1] == n - 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 1e-3 or not share else f"{share:.0e}"


__all__ = ["Contradiction", "Mixed", "Verification"]
