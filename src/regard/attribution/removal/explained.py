"""From what a method makes of one sample's runs to a map: units chosen, taken away, measured, and scored token by token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from regard.attribution.context import Context, Relevance
from regard.attribution.integral.baseline_values import Baselines, is_local, label, reference
from regard.attribution.removal.runs import LEFT_OUT, Taken, Without, content, reached
from regard.attribution.removal.surrogate import Fit
from regard.errors import Misuse, ModelError
from regard.recording.inputs import first
from regard.recording.tokens.tags import stream_of
from regard.site import Site

CONFIG_ALONE = (
    "special tokens of {!r}, which are never taken away, were found from the model's config alone; a reader (regard.load) "
    "knows them all"
)
STILL_THERE = (
    "units that attention leaves out would still reach the target here (merged, mixed outside attention, pooled in a way of "
    "the model's own, or read where they stand), so {} stands in their place"
)


@dataclass
class Removed:
    """What the receipt measures the map against: every unit taken away. y0: the target's value then, (batch,)."""

    baseline: str
    y: Float[Tensor, " batch"]
    y0: Float[Tensor, " batch"]
    passes: int
    site: Site = field(default_factory=Site.input)
    complete: bool = True


@dataclass
class OneSample:
    """The runs that one target's value needs."""

    context: Context
    without: Without
    baseline: str

    @property
    def units(self) -> int:
        """How many there are."""
        return self.without.units

    def y(self, taken: Taken) -> Float[Tensor, " copy"]:
        """The target's value without the taken units. The targets of a call that take the same units share these runs."""
        context, w = self.context, self.without
        together = {i: t for i, t in enumerate(context.siblings()) if t is not None}
        if w.again.shared is not None or context.number not in together:
            return w.y(taken)
        key = (self.baseline, w.sample, _print(w.unit), _print(taken))
        runs = context.shared_runs
        if key in runs:
            w.runs += len(taken)
        else:
            runs[key] = dict(zip(together, w.ys(taken, [*together.values()]), strict=True))
        found: Float[Tensor, " copy"] = runs[key][context.number]
        return found

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The target's value with all units, and with none."""
        d = self.units
        whole, none = self.y(torch.tensor([[False] * d, [True] * d])).tolist()
        return whole, none


def _print(t: Tensor) -> str:
    return hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest()


def explained(
    context: Context,
    units: Callable[[Bool[Tensor, "sample row"]], Int[Tensor, "sample row"]],
    fit: Callable[[OneSample], Fit],
) -> Relevance:
    """Relevance of every token: its unit's coefficient, shared equally among the unit's tokens.

    units: from the tokens that may be taken away to the number of each one's unit. fit: what the method makes of one sample.
    """
    assert context.again is not None
    y = context.gradients.value.double().cpu()
    read = _read(context)
    tokens = content(context.recording, context.reading, context.recording.zeros() if read is None else read)
    x0, baseline = _in_their_place(context, tokens, known=read is not None)
    out, errors = (context.recording.zeros().double() for _ in range(2))
    ends, passes = y.clone(), 0
    for i in range(len(y)):
        sample = i if context.again.shared is None else context.again.shared
        unit = units(tokens & _of(context, i, len(y)) & _changed(context, x0))
        one = OneSample(context, Without(context.again, context.recording, sample, unit, x0), baseline)
        found = fit(one) if one.units else Fit.of_nothing(float(y[i]))
        context.fits.append(found)
        errors += shared_out(unit, found.errors)
        out += shared_out(unit, found.coefficients)
        ends[i] = one.ends[1] if one.units else y[i]
        passes = max(passes, one.without.runs)
    checked = 2 if context.baseline is None and context.recording.whole and read is not None else 0
    context.reference = Removed(baseline, y.float(), ends.float(), passes + checked)
    context.errors = errors
    return out.to(context.recording.precision)


def tokens_of_each_value(context: Context) -> Iterator[Bool[Tensor, "sample row"]]:
    """The tokens that may be taken away for each value of the target."""
    assert context.again is not None
    read, count = _read(context), len(context.gradients.value)
    tokens = content(context.recording, context.reading, context.recording.zeros() if read is None else read)
    for i in range(count):
        yield tokens & _of(context, i, count)


def shared_out(unit: Int[Tensor, "*place"], values: Float[Tensor, " unit"]) -> Float[Tensor, "*place"]:
    """A unit's value in equal parts on its tokens; 0 where there is none (-1)."""
    share = values / torch.bincount(unit[unit >= 0], minlength=len(values))
    return torch.cat([share, share.new_zeros(1)])[unit]


def _read(context: Context) -> Relevance | None:
    """Weights of the rows that the target reads; None where no gradient comes through that could tell."""
    try:
        return context.r if _differentiable(context) else None
    except ModelError:
        return None


def config_alone(context: Context) -> list[str]:
    """A note on each input of ids whose special tokens no reader has named."""
    recording = context.recording
    ids = [n for n, t in recording.given.tensors.items() if not t.is_floating_point()]
    streams = {s.name for s in recording.streams if s.of_input}
    return [CONFIG_ALONE.format(n) for n in ids if n in streams and context.reading.special.get(n) is None]


def _differentiable(context: Context) -> bool:
    assert context.again is not None
    with torch.enable_grad():
        return bool(context.again.y(context.recording.output).requires_grad)


def _of(context: Context, i: int, count: int) -> Bool[Tensor, "sample row"]:
    """The rows of the samples that a value of the target rests on: its own; where it rests on others, told by gradients."""
    recording, again = context.recording, context.again
    assert again is not None
    out = torch.zeros(recording.batch, recording.rows, dtype=torch.bool)
    if again.shared is None and count == recording.batch:
        out[i] = True
        return out
    if not _differentiable(context):
        return ~out
    for name, g in context.gradients.inputs.items():
        stream = recording.stream(recording.aliases.get(stream_of(name), stream_of(name)))
        if stream.packed:
            out[:, stream.rows] = True
            continue
        moved = first(g, recording.axis(name)).flatten(1).any(1).cpu()
        out[: len(moved), stream.rows] |= moved[:, None]
    return out


def _changed(context: Context, x0: Mapping[str, Tensor] | None) -> Bool[Tensor, " row"]:
    """The rows of streams that the baseline names; of all, where units are left out of attention."""
    recording = context.recording
    out = torch.full((recording.rows,), x0 is None)
    for name in x0 or {}:
        out[recording.stream(recording.aliases.get(stream_of(name), stream_of(name))).rows] = True
    return out


def _in_their_place(
    context: Context, tokens: Bool[Tensor, "sample row"], *, known: bool
) -> tuple[dict[str, Tensor] | None, str]:
    """What stands in the place of units that are taken away (None: they are left out of attention), and its name.

    known: a gradient tells what the target reads.
    """
    wanted: Baselines = context.baseline
    if wanted is not None:
        if is_local(wanted):
            raise Misuse(
                "a unit is taken away at the input, so its baseline has no local form; write zero, not zero:local"
            )
        return reference(context, wanted), label(wanted)
    if context.recording.whole and known:
        assert context.again is not None
        alternate = torch.where(tokens, tokens.cumsum(1) - 1, -1)
        if not bool(reached(context.again, context.recording, alternate).any()):
            context.notes.extend(config_alone(context))
            return None, LEFT_OUT
        context.notes.append(STILL_THERE.format(label(None)))
    return reference(context, None), label(None)


__all__ = ["OneSample", "Removed", "config_alone", "explained", "shared_out", "tokens_of_each_value"]
