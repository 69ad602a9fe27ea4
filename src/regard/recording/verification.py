"""What a proof of provenance found, and how it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from regard.errors import Contradicted


@dataclass(frozen=True)
class Contradiction:
    """Rows that are not what they are said to be. call: its number, or None (scores' operands, final states).

    share: of the gradient, how much sits off the claim (or how far two numbers that must agree are apart, relatively).
    """

    call: int | None
    module: str
    side: str
    claimed: str
    found: str
    share: float

    def __str__(self) -> str:
        where = f"call {self.call}" if self.call is not None else "outside of calls"
        return (
            f"{where}{f' ({self.module})' if self.module else ''}, {self.side}: said to be {self.claimed}, but {self.found} "
            f"({_percent(self.share)})"
        )


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
    """What `regard.verify` found. True where nothing contradicts what is said of the tokens.

    claims: how many were tested (row of a side of a call -> tokens). untested: sentences. mixed: what is known to be mixed
    outside attention, in numbers. passes: forward passes and gradients that it took.
    """

    claims: int
    calls: int
    contradictions: list[Contradiction]
    untested: list[str]
    mixed: list[Mixed]
    passes: int

    @property
    def ok(self) -> bool:
        """Whether nothing was contradicted (what was untested may still be wrong)."""
        return not self.contradictions

    def __bool__(self) -> bool:
        return self.ok

    def check(self) -> Verification:
        """The same. Raises Contradicted where something is."""
        if self.contradictions:
            more = f" (and {len(self.contradictions) - 1} more)" if len(self.contradictions) > 1 else ""
            raise Contradicted(
                f"what is followed of the tokens is wrong, and so would be a map: {self.contradictions[0]}{more}; see "
                "regard.verify(model, inputs), and say whose tokens they are with streams="
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
        tested = f"{self.claims} claims about {self.calls} attention call{'s' if self.calls > 1 else ''} hold"
        return tested + (", some could not be tested" if self.untested else "")

    @property
    def notes(self) -> list[str]:
        """What a receipt says of it."""
        rows = [f"verified: {self.verdict}" if self.ok else f"WRONG: {self.verdict}"]
        return rows + [str(m) for m in self.mixed] + [f"untested, {u}" for u in _together(self.untested)]

    def __str__(self) -> str:
        rows = [("verified" if self.ok else "WRONG", self.verdict)]
        rows += [("wrong", str(c)) for c in self.contradictions]
        rows += [("mixed", str(m)) for m in self.mixed]
        rows += [("untested", u) for u in _together(self.untested)]
        rows += [("cost", f"{self.passes} passes (forward passes and gradients)")]
        return "\n".join(f"{a:<9} {b}" for a, b in rows)

    __repr__ = __str__


def _together(sentences: Sequence[str]) -> list[str]:
    """`call 0: why`, `call 1: why` -> `call 0, 1: why`."""
    found: dict[str, list[str]] = {}
    for what, _, why in (s.partition(": ") for s in sentences):
        found.setdefault(why, []).append(what)
    out = []
    for why, whats in found.items():
        calls = [w.removeprefix("call ") for w in whats if w.startswith("call ")]
        others = [w for w in whats if not w.startswith("call ")]
        out.append(f"{', '.join([*(['call ' + ', '.join(calls)] if calls else []), *others])}: {why}")
    return out


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 1e-3 or not share else f"{share:.0e}"


__all__ = ["Contradiction", "Mixed", "Verification"]
