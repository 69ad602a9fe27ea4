"""The test itself: rows weighted by codes of their claims, one gradient for each bit; rows behind a contradiction by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from regard.recording.gradient import failed
from regard.recording.proof.claims import Claim, Claims, ReadAt, Round
from regard.recording.proof.cut_run import MapOrder, Term, Unit
from regard.recording.proof.findings import Contradiction
from regard.recording.tokens.tags import STRIDE, stream_of

TOLERANCE = 1e-6
"""The share of a token's gradient that may come from rows that are not said to rest on it. Where no path leads, the gradient is
exactly zero in any precision; what is left is the rounding of softmax rows whose weights cancel."""


class Masses:
    """Masses of a gradient at all places, by token: counts passes, and begins anew at a smaller scale where half precision
    overflows."""

    def __init__(self, found: Sequence[ReadAt]) -> None:
        self.places = [p for p in found if p.leaf.requires_grad]
        self.passes = 0

    def without(self, names: frozenset[str]) -> Masses:
        """The same, but for some inputs."""
        return Masses([p for p in self.places if stream_of(p.name) not in names])

    def __call__(self, y: Tensor) -> list[Tensor]:
        """|∂y/∂x| at each place, in the shape of its ids."""
        if not (y.requires_grad and self.places):
            return [p.mass(None) for p in self.places]
        for scale in (1.0, 2.0**-8, 2.0**-16):
            self.passes += 1
            leaves = [p.leaf for p in self.places]
            try:
                found = torch.autograd.grad(y * scale, leaves, retain_graph=True, allow_unused=True)
            except (AssertionError, NotImplementedError, RuntimeError) as error:
                raise failed(error) from error
            masses = [p.mass(g) / scale for p, g in zip(self.places, found, strict=True)]
            if all(bool(m.isfinite().all()) for m in masses):
                return masses
        return [m.nan_to_num(0.0, 0.0, 0.0) for m in masses]


@dataclass
class Ledger:
    """Of one round: the gradient's mass at each token, and how much of it no claim allows; by bit."""

    total: list[Tensor]
    off: list[Tensor]

    @property
    def by_token(self) -> list[Tensor]:
        """The share of each token's mass that is off; a token that hardly counts is held against the mean."""
        out = []
        for total, off in zip(self.total, self.off, strict=True):
            least = total[total > 0].mean() if bool((total > 0).any()) else torch.ones(())
            out.append(off.sum(0) / torch.maximum(total, least))
        return out

    @property
    def share(self) -> float:
        """Of all mass."""
        total = sum(float(t.double().sum()) for t in self.total)
        return sum(float(o.double().sum()) for o in self.off) / total if total else 0.0


@dataclass
class Test:
    """One round's test of some units."""

    claims: Claims
    round: Round
    units: Sequence[Unit]
    gradients: Masses
    sharp: bool = False
    kept: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        recording = self.claims.recording
        self.allowed = self.round.allowed(recording.batch, recording.rows)
        self.terms = [t for u in self.units for t in u.terms]
        self.weights = [u.weights for u in self.units if u.weights is not None]

    def code(self, term: Term) -> Tensor:
        """(row, bit): each row's code; 0 for rows whose claim is another round's."""
        if id(term) not in self.kept:
            self.kept[id(term)] = self.coded(term.claims(self.claims, self.sharp))
        return self.kept[id(term)]

    def coded(self, claims: Sequence[Claim]) -> Tensor:
        """(claim, bit)."""
        numbers = torch.tensor([self.round.claims.get(c, len(self.round.claims)) for c in claims], dtype=torch.int64)
        return torch.cat([self.round.codes, torch.zeros(1, self.round.bits)])[numbers]

    def sides(self, w: MapOrder) -> tuple[Tensor, Tensor]:
        """Codes of an A's rows and columns, (group, row, bit) and (group, key, bit)."""
        both = []
        for ids in (w.call.queries, w.call.keys):
            term = Term(w.call, "", w.call.event, w.logs, ids.flatten())
            both.append(self.coded(term.claims(self.claims, self.sharp)).view(*ids.shape, -1))
        return both[0], both[1]

    def value(self, bit: int, terms: Sequence[Term], weights: Sequence[MapOrder]) -> Tensor | None:
        """y of one bit."""
        parts = [t.value(self.code(t)[:, bit]) for t in terms if bool(self.code(t)[:, bit].any())]
        for w in weights:
            rows, columns = self.sides(w)
            parts.append(w.value(rows[..., bit], columns[..., bit]))
        return torch.stack([p.double().cpu() for p in parts]).sum() if parts else None

    def off(self, masses: Sequence[Tensor], bit: int) -> list[Tensor]:
        """The mass that sits where no claim with this bit allows it."""
        allowed = self.allowed[bit]
        return [m * ~p.where(allowed).expand(m.shape) for m, p in zip(masses, self.gradients.places, strict=True)]

    def run(self) -> Ledger | None:
        """All bits; None where nothing is claimed in this round."""
        total: list[Tensor] = []
        off: list[list[Tensor]] = []
        for bit in range(self.round.bits):
            y = self.value(bit, self.terms, self.weights)
            masses = [p.mass(None) for p in self.gradients.places] if y is None else self.gradients(y)
            total = [a + b for a, b in zip(total, masses, strict=True)] if total else masses
            off.append(self.off(masses, bit))
        return Ledger(total, [torch.stack(o) for o in zip(*off, strict=True)])


# -- naming a contradiction -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spot:
    """Where a contradiction shows: a place, an element of it, a bit."""

    place: int
    element: int
    bit: int


def worst(ledger: Ledger) -> Spot | None:
    """The token with the greatest share off its claims, where that is more than rounding."""
    shares = ledger.by_token
    peaks = [float(s.max()) if s.numel() else 0.0 for s in shares]
    if not peaks or max(peaks) <= TOLERANCE:
        return None
    place = peaks.index(max(peaks))
    element = int(shares[place].flatten().argmax())
    return Spot(place, element, int(ledger.off[place].flatten(1)[:, element].argmax()))


def named(test: Test, spot: Spot) -> tuple[Contradiction, Term | MapOrder]:
    """The rows behind a contradiction: halves of what was tested, again and again."""
    parts: list[Term | MapOrder] = [*test.terms, *test.weights]
    while len(parts) > 1:
        half = parts[: len(parts) // 2]
        parts = half if _at(test, spot, half) > 0 else parts[len(half) :]
    part = parts[0]
    if isinstance(part, MapOrder):
        return _of_weights(test, spot, part), part
    rows = test.code(part)[:, spot.bit].nonzero()[:, 0]
    while len(rows) > 1:
        half_of = rows[: len(rows) // 2]
        rows = half_of if _mass(test, spot, part.value(_only(part, half_of))) > 0 else rows[len(half_of) :]
    return _of_row(test, part, rows), part


def _only(term: Term, rows: Tensor) -> Tensor:
    return torch.zeros(len(term.ids)).index_fill(0, rows, 1.0)


def _mass(test: Test, spot: Spot, y: Tensor) -> float:
    return float(test.gradients(y)[spot.place].flatten()[spot.element])


def _at(test: Test, spot: Spot, parts: Sequence[Term | MapOrder]) -> float:
    terms = [p for p in parts if isinstance(p, Term)]
    y = test.value(spot.bit, terms, [p for p in parts if isinstance(p, MapOrder)])
    return 0.0 if y is None else _mass(test, spot, y)


def _of_row(test: Test, term: Term, rows: Tensor) -> Contradiction:
    """One row, and what it rests on."""
    claims = test.claims
    masses = test.gradients(term.value(_only(term, rows)))
    claim = claims.of(int(term.ids[rows[0]]), term.event)
    allowed = torch.zeros_like(test.allowed[0])
    allowed[claim.sample, list(claim.tokens)] = True
    off = [m * ~p.where(allowed).expand(m.shape) for m, p in zip(masses, test.gradients.places, strict=True)]
    share = sum(float(o.sum()) for o in off) / max(sum(float(m.sum()) for m in masses), 1e-300)
    found = max(range(len(off)), key=lambda i: float(off[i].max()))
    where = f"rests on {_element(test, found, int(off[found].flatten().argmax()))}"
    call = term.call
    return Contradiction(
        None if call is None else call.index,
        "" if call is None else call.module,
        term.side,
        claims.said(claim),
        where,
        share,
    )


def _element(test: Test, place: int, element: int) -> str:
    """The token of an element, in words."""
    p = test.gradients.places[place]
    shape = torch.broadcast_shapes(*(i.shape for i in p.ids))
    if not bool(p.ids[0].any()):
        return f"input {p.name}"
    sample, row = divmod(int(p.ids[0].expand(shape).flatten()[element]), STRIDE)
    return test.claims.said(Claim(sample, frozenset([row])))


def _of_weights(test: Test, spot: Spot, w: MapOrder) -> Contradiction:
    """Rows or columns of an A, which no part of it can be taken without."""
    masses = test.gradients(w.value(*(side[..., spot.bit] for side in test.sides(w))))
    off, total = test.off(masses, spot.bit), sum(float(m.sum()) for m in masses)
    share = sum(float(o.sum()) for o in off) / max(total, 1e-300)
    found = f"rests on {_element(test, spot.place, spot.element)} as well"
    return Contradiction(w.call.index, w.call.module, "rows or columns of the weights", "of other tokens", found, share)
