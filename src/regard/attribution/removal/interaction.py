"""Which word goes with which patch: second-order interactions of a picture and a text that a model encodes apart.

FIxLIP (Baniecki et al., NeurIPS 2025), our reading: random patches and random words are left out of attention, every such
picture is compared with every such text, and one least squares fits what each unit does and what each pair does beyond that
(banzhaf.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from regard.attribution.context import Context, Relevance
from regard.attribution.removal.banzhaf import Crossed, Kept, Masks, Others, errors, fitted, masks, unseen_r2
from regard.attribution.removal.explained import Removed, shared_out, tokens_of_each_value
from regard.attribution.removal.grouping import numbered
from regard.attribution.removal.runs import LEFT_OUT, at_units
from regard.attribution.removal.surrogate import Fit
from regard.attribution.rerun import Rerun
from regard.errors import Misuse, NonFinite, RegardError
from regard.kinds import Count
from regard.recording import Recording, Stream
from regard.recording.edits import LeaveOut
from regard.recording.inputs import Inputs
from regard.recording.refusals import floats_in
from regard.recording.tokens.tags import stream_of

CLOSE = 1e-4
"""How far what should be one number may be from itself, as a share of its size: rounding."""
APART = (
    "interaction compares copies of a picture with copies of a text, so it needs a model that encodes the two apart and "
    "gives the similarity of every picture and every text, and that similarity as the target: {}"
)


def interaction(
    context: Context,
    *,
    p: float = 0.5,
    pictures: Count | None = None,
    texts: Count = 128,
    unit: str = "word",
    window: Count = 1,
) -> Relevance:
    """Weighted Banzhaf values: what a patch or a word adds, on the average over the others, each there with chance p.

    `exp.between(words, patches)` gives what each pair adds beyond what its two sides add by themselves. pictures, texts: how
    many masks are drawn on either side (all, each weighed by its chance, where there are no more); None: three for each patch,
    400 at least. unit, window: as of `lime`. A unit's value is shared by its tokens, a pair's by the tokens of both. The
    receipt has the R² on masks that were not fitted to, and standard errors by a two-way bootstrap.

    Raises Misuse where the two sides cannot be run apart, or the target is not their similarity.
    """
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 < p < 1:
        raise Misuse(f"p is the chance of a unit to be there, between 0 and 1, not {p!r}")
    recording, y = context.recording, context.gradients.value.double().cpu()
    out, spread = (recording.zeros().double() for _ in range(2))
    pairs, unsure = (torch.zeros(len(y), recording.rows, recording.rows) for _ in range(2))
    nothing = y.clone()
    for i, tokens in enumerate(tokens_of_each_value(context)):
        both = BothSides.of_units(
            context, numbered(recording, context.reading, tokens, unit, window=window), float(y[i])
        )
        drawn = max(400, 3 * (both.first.units + 1)) if pictures is None else pictures
        z = masks(both.first.units, drawn, float(p), context.seed, "first")
        w = masks(both.second.units, texts, float(p), context.seed, "second")
        found = fit(both, z, w, float(p), context.seed)
        for side, value, error in zip(both.sides, found.values, found.errors[:2], strict=True):
            out[side.sample, side.stream.rows] += side.shared(value)
            spread[side.sample, side.stream.rows] += side.shared(error)
        pairs[i] = both.on_rows(found.crossed.pairs, recording.rows)
        unsure[i] = both.on_rows(found.errors[2], recording.rows)
        context.fits.append(found.as_fit(both.passes, exact=z.exact and w.exact))
        nothing[i] = float(both.crossed(*(torch.zeros(1, side.units) for side in both.sides)))
        context.forwards += both.forwards
    context.errors, context.between, context.between_errors = spread, pairs, unsure
    context.reference = Removed(LEFT_OUT, y.float(), nothing.float(), 0)
    return out.to(recording.precision)


# -- the fit --------------------------------------------------------------------------------------------------------------


class Interactions(NamedTuple):
    """What one value's crossings say: the model, both sides' values, the errors of these and of pairs, R² on unseen masks."""

    crossed: Crossed
    values: tuple[Tensor, Tensor]
    errors: tuple[Tensor, Tensor, Tensor]
    r2: float

    def as_fit(self, passes: int, *, exact: bool) -> Fit:
        """For the receipt."""
        return Fit(torch.cat(self.values), self.crossed.base, self.r2, torch.cat(self.errors[:2]), passes, exact)


def fit(both: BothSides, z: Masks, w: Masks, p: float, seed: int) -> Interactions:
    """From the similarities of all crossings."""
    y = both.crossed(z.kept, w.kept)
    found = fitted(z, w, y)
    return Interactions(found, found.values(p), errors(z, w, y, p, seed), unseen_r2(z, w, y))


# -- the runs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UnitSide:
    """One stream of one sample, and the unit of each of its tokens (-1: none)."""

    stream: Stream
    sample: int
    unit: Int[Tensor, " token"]

    @property
    def units(self) -> int:
        """How many there are."""
        return int(self.unit.max()) + 1

    def shared(self, values: Float[Tensor, " unit"]) -> Float[Tensor, " token"]:
        """A unit's value in equal parts on its tokens."""
        return shared_out(self.unit, values)

    def hidden(self, kept: Kept) -> Bool[Tensor, "copy token"]:
        """The tokens of units that are not there."""
        return at_units(kept == 0, self.unit)


@dataclass
class BothSides:
    """Copies of a picture crossed with copies of a text, each without some of its units.

    again: the run that is repeated. y: the similarity of the two as they are. of: input -> the side that it belongs to.
    place: which tensor of the output has the similarities; cosine: the numbers of the two embeddings that it is the cosine of,
    where no tensor has them. passes: of either encoder, so far. forwards: runs of the model.
    """

    again: Rerun
    budget: int
    made: int
    rows: int
    first: UnitSide
    second: UnitSide
    y: float
    of: dict[str, int] = field(default_factory=dict)
    place: int = 0
    cosine: tuple[int, int] | None = None
    passes: int = 0
    forwards: int = 0

    @classmethod
    def of_units(cls, context: Context, unit: Int[Tensor, "sample row"], y: float) -> BothSides:
        """From the numbers of units. Raises Misuse where these are not of two inputs, or these cannot be crossed."""
        recording, again = context.recording, context.again
        assert again is not None
        found = []
        for stream in recording.streams:
            for sample in (unit[:, stream.rows] >= 0).any(1).nonzero()[:, 0].tolist():
                own = unit[sample, stream.rows]
                numbers = own[own >= 0].unique()
                found.append(UnitSide(stream, sample, torch.where(own >= 0, torch.searchsorted(numbers, own), -1)))
        if len(found) != 2:
            names = " and ".join(s.stream.name for s in found) or "nothing"
            raise Misuse(APART.format(f"this target rests on {names}"))
        found.sort(key=lambda s: _is_ids(recording, s.stream))
        made = recording.made // recording.batch
        both = cls(again, recording.budget, made, recording.rows, found[0], found[1], y)
        both._find_sides(recording)
        return both

    @property
    def sides(self) -> tuple[UnitSide, UnitSide]:
        """Of the picture, and of the text."""
        return self.first, self.second

    def on_rows(self, pairs: Float[Tensor, "first second"], rows: int) -> Float[Tensor, "row row"]:
        """Each pair's value in equal parts on the tokens of both, both ways."""
        out = torch.zeros(rows, rows)
        each = torch.stack([self.second.shared(row) for row in pairs])  # (first, token)
        table = torch.stack([self.first.shared(column) for column in each.T], 1).float()
        out[self.first.stream.rows, self.second.stream.rows] = table
        out[self.second.stream.rows, self.first.stream.rows] = table.T
        return out

    # -- crossing ---------------------------------------------------------------------------------------------------------

    def crossed(self, z: Kept, w: Others) -> Float[Tensor, "copy other"]:
        """The similarity of every copy of the first with every copy of the second, in double precision.

        Where the output holds both embeddings and the similarity is their product, scaled and shifted, every copy is encoded
        once; else the texts are encoded again for each batch of pictures.
        """
        n = max(4, self.budget // max(1, self.made))  # fewer would not tell what the similarity is a product of
        begun = self._outputs(z[:n], w[:n])
        block = begun[self.place].double()
        product = product_of(begun, block)
        if product is None:
            rows = [[self._outputs(a, b)[self.place].double() for b in w.split(n)] for a in z.split(n)]
            found = torch.cat([torch.cat(row, 1) for row in rows])
        else:
            more, others = ([c for c in side[n:].split(n) if len(c)] for side in (z, w))
            E = torch.cat([begun[product.first], *(self._outputs(a, w[:1])[product.first] for a in more)])
            F = torch.cat([begun[product.second], *(self._outputs(z[:1], b)[product.second] for b in others)])
            found = product.at(E.double(), F.double())
        if not bool(torch.isfinite(found).all()):
            raise NonFinite("the similarity is NaN or infinite without some of the units")
        return found.cpu()

    def _outputs(self, z: Kept, w: Others) -> list[Tensor]:
        """All floating tensors of the output of one run, copies of the first beside copies of the second."""
        self.passes += len(z) + len(w)
        self.forwards += 1
        counts = (len(z), len(w))
        hidden = torch.zeros(max(counts), self.rows, dtype=torch.bool)
        for side, kept in zip(self.sides, (z, w), strict=True):
            hidden[: len(kept), side.stream.rows] = side.hidden(kept)
        with torch.no_grad():
            made = replace(self.again, inputs=self._inputs(counts)).run([LeaveOut(hidden)])
        found = [t.detach() for t in floats_in(made.returned)]
        if self.cosine is not None:
            E, F = (normalize(found[i].double(), dim=-1) for i in self.cosine)
            found += [E, F, E @ F.T]
        return found

    def _inputs(self, counts: tuple[int, int]) -> Inputs:
        given, new = self.again.inputs, {}
        for name, t in given.tensors.items():
            side, axis = self.of[name], given.axis(name) or 0
            sample = self.sides[side].sample if t.shape[axis] > 1 else 0
            new[name] = torch.cat([t.narrow(axis, sample, 1)] * counts[side], axis)
        return given.replaced(new)

    def _find_sides(self, recording: Recording) -> None:
        """Which input belongs to which side: told by the streams, and of masks and the like by trying."""
        names = {s.stream.name: i for i, s in enumerate(self.sides)}
        alias = {k: recording.aliases.get(stream_of(k), stream_of(k)) for k in self.again.inputs.tensors}
        known = {k: names[v] for k, v in alias.items() if v in names}
        others = [k for k in alias if k not in known]
        whole = [torch.ones(2 + i, side.units) for i, side in enumerate(self.sides)]
        for choice in itertools.product((1, 0), repeat=len(others)):
            self.of = known | dict(zip(others, choice, strict=True))
            try:
                made = self._outputs(*whole)
            except RegardError:
                continue
            self.passes = 0
            places = [i for i, t in enumerate(made) if t.shape == (2, 3) and self._is_y(t)]
            if places:
                self.place = places[0]
                return
            firsts, seconds = ([i for i, t in enumerate(made) if t.ndim == 2 and len(t) == n] for n in (2, 3))
            for i, j in itertools.product(firsts, seconds):
                E, F = made[i].double(), made[j].double()
                rounding = max(CLOSE, 4 * torch.finfo(made[i].dtype).eps)  # that of the model's own cosine
                if E.shape[1] == F.shape[1] and self._is_y(normalize(E, dim=-1) @ normalize(F, dim=-1).T, rounding):
                    self.cosine, self.place = (i, j), len(made) + 2
                    return
        raise Misuse(APART.format("no such similarity was found in its output"))

    def _is_y(self, similarities: Tensor, close: float = CLOSE) -> bool:
        """Whether those of whole copies are the one that is explained."""
        return float((similarities - self.y).abs().max()) <= close * max(1.0, abs(self.y))


class EmbeddingProduct(NamedTuple):
    """A similarity as scale · ⟨first, second⟩ + shift of two tensors of the output, by their numbers."""

    first: int
    second: int
    scale: float
    shift: float

    def at(self, E: Float[Tensor, "copy width"], F: Float[Tensor, "other width"]) -> Float[Tensor, "copy other"]:
        """The similarities of embeddings."""
        return self.scale * E @ F.T + self.shift


def product_of(output: Sequence[Tensor], y: Float[Tensor, "copy other"]) -> EmbeddingProduct | None:
    """Which two tensors of an output a similarity is the scaled product of; None where there are none, or y does not vary."""
    n, m = y.shape
    spread = float((y - y.mean()).abs().max())
    firsts = [i for i, t in enumerate(output) if t.ndim == 2 and len(t) == n]
    seconds = [i for i, t in enumerate(output) if t.ndim == 2 and len(t) == m]
    for i, j in itertools.product(firsts, seconds):
        E, F = output[i].double(), output[j].double()
        if i == j or E.shape[1] != F.shape[1] or spread == 0:
            continue
        x = E @ F.T
        centred = x - x.mean()
        scale = float((centred * y).sum() / centred.square().sum().clamp(min=1e-300))
        shift = float(y.mean() - scale * x.mean())
        if float((scale * x + shift - y).abs().max()) <= CLOSE * spread:
            return EmbeddingProduct(i, j, scale, shift)
    return None


def _is_ids(recording: Recording, stream: Stream) -> bool:
    ids = recording.given.tensors.get(stream.name)
    return ids is not None and not ids.is_floating_point()


__all__ = ["BothSides", "EmbeddingProduct", "interaction", "product_of"]
