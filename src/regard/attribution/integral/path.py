"""The path from a baseline to what the model saw, at a site: y and its gradient at any point F0 + t (F − F0) of it.

All methods that decompose y are quadratures of one integral, a = (F − F0) ⊙ ∫₀¹ ∂f/∂F(F0 + t(F − F0)) dt (formulas.md section
1). Points run side by side, as samples of one batch, as many as the memory budget allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.attribution.attention.edge_rules import EDGES
from regard.attribution.context import Context, Relevance
from regard.attribution.integral.baseline_values import Baselines, is_local, label, local_streams, reference
from regard.attribution.integral.gradient import shared_out
from regard.attribution.rerun import Rerun, edits
from regard.errors import Misuse, RegardError
from regard.recording import Recording, Stream
from regard.recording.calls import Pull
from regard.recording.edits import Replace, Scale
from regard.recording.gradient import gradient, gradients_at
from regard.recording.states import Key, State
from regard.recording.tokens.tags import STRIDE, constant, stream_of, thin
from regard.site import Site

Values = dict[str | Key, Tensor]


@dataclass(frozen=True)
class Place:
    """One tensor of a site: where it stands, its value F, and the ids of the rows that its elements belong to.

    `features` are the axes along which elements belong to one row; ids have length 1 there. `samples` is the batch's axis.
    Where `stream` is set, F is an input: its elements are put in order, (batch, token, element), first, as `ids` are. `unsure`:
    of a batch of one, several axes may be the samples', so that copies cannot be put side by side.
    """

    key: str | Key
    F: Tensor = field(repr=False)
    ids: Tensor = field(repr=False)
    features: tuple[int, ...]
    samples: int = 0
    stream: Stream | None = None
    unsure: bool = False

    @classmethod
    def of_input(cls, recording: Recording, name: str) -> Place:
        """An input, or the word embeddings of ids."""
        x, entry = recording.leaves[name].detach(), stream_of(name)
        axis = recording.axis(name) or 0
        if name in recording.embedded:
            return cls(name, x, recording.embedded[name][..., None], (2,), axis)
        stream = recording.stream(recording.aliases.get(entry, entry))
        rows = torch.arange(stream.first, stream.first + stream.count)
        ids = rows + (torch.arange(1, recording.given.batch(entry) + 1) * STRIDE)[:, None]
        return cls(name, x, ids[..., None], (2,), axis, stream)

    @classmethod
    def of_state(cls, state: State) -> Place:
        """A state between blocks."""
        ids, sample = state.ids, state.ids // STRIDE
        axes = [d for d in range(ids.ndim) if not constant(sample, d)]
        axes = axes or [d for d in range(ids.ndim) if ids.shape[d] == 1]  # a batch of one
        axis = axes[0] if axes else 0
        features = tuple(d for d in range(ids.ndim) if d != axis and constant(ids, d))
        for d in features:
            ids = ids.narrow(d, 0, 1)
        return cls(state.key, state.value.detach(), ids, features, axis, unsure=len(axes) > 1)

    def of_sample(self, i: int) -> Place:
        """The same for one sample alone."""
        of_ids = self.samples if self.stream is None else 0
        return replace(self, F=self.F.narrow(self.samples, i, 1), ids=self.ids.narrow(of_ids, i, 1))

    def rows(self, a: Tensor, recording: Recording) -> Relevance:
        """Elements (batch, ...) summed over each row, on the rows of all streams."""
        if self.stream is not None:
            assert isinstance(self.key, str)
            return recording.scatter(shared_out(recording, self.key, a).sums.reshape(1, -1), self.ids.reshape(1, -1))
        summed = a.float().sum(self.features, keepdim=True) if self.features else a.float()
        return recording.scatter(summed.reshape(1, -1), self.ids.reshape(1, -1))


def places(recording: Recording, site: Site) -> list[Place]:
    """The tensors of a site, from the recorded run."""
    states = [] if site.kind == "input" else recording.frontier(site.layer, site.stream)
    streams = {s.name for s in recording.streams if s.kind == "input"}
    if site.kind == "input":
        streams |= {k for k in recording.aliases if k in recording.leaves and k not in recording.embedded}
    late = streams - held(recording, states) if site.stream is None else set()  # no block has been given these yet
    entries = [k for k in recording.leaves if stream_of(k) in late]
    return [*(Place.of_state(s) for s in states), *(Place.of_input(recording, k) for k in entries)]


def sealed(context: Context, site: Site) -> tuple[Site, list[Place]]:
    """A site with its places. In a model whose attention is not followed, blocks are guessed from its lists of modules: a site
    that a gradient gets round is no frontier. One that was asked for is refused, a method's own gives way to the input.

    Raises Misuse for the former.
    """
    found = places(context.recording, site)
    inside = [p for p in found if p.stream is None and not isinstance(p.key, str)]
    if context.recording.whole or site.stream is not None or not inside or not _passed_by(context, found):
        return site, found
    if context.site is not None:
        raise Misuse(
            f"{site.label} is not a frontier of this model: its target also reads the inputs along "
            "paths around it; use Site.input()"
        )
    return Site.input(), places(context.recording, Site.input())


def _passed_by(context: Context, found: Sequence[Place]) -> bool:
    """Whether y depends on an input although all of a site keeps its value."""
    assert context.again is not None
    held_fast: dict[Any, Tensor] = {p.key: p.F for p in found}
    with torch.enable_grad():
        entries = {
            k: x.detach().clone().requires_grad_() for k, x in context.recording.leaves.items() if k not in held_fast
        }
        y = context.again.y(context.again.output({**held_fast, **entries}))
        grads = gradient(y, [*entries.values()]) if y.requires_grad and entries else []
    return any(g is not None and bool(g.any()) for g in grads)


def cells_of(recording: Recording, found: Sequence[Place]) -> list[Stream] | None:
    """The streams of places that stand for an input's tokens at a coarser stage (the cells of a convolution), with the other
    inputs' own; None where there are none."""
    there = torch.zeros(recording.rows, dtype=torch.bool)
    for place in found:
        there[(thin(place.ids) % STRIDE).flatten()] = True
    coarse = [
        s for s in recording.stages if s.kind == "input" and bool(there[s.rows].any()) and s not in recording.streams
    ]
    names = {s.name for s in coarse}
    return [*coarse, *(s for s in recording.streams if s.name not in names)] if coarse else None


def held(recording: Recording, states: list[State]) -> set[str]:
    """The streams whose tokens stand in some states: each state's own, and those that are joined to it."""
    there = torch.zeros(recording.rows, dtype=torch.bool)
    for s in states:
        there[(thin(s.ids) % STRIDE).flatten()] = True
    there[0] = False  # nobody's row
    return {s.stream for s in states} | {s.name for s in recording.streams if bool(there[s.rows].any())}


def start_of(
    context: Context, found: Sequence[Place], site: Site, baseline: Baselines
) -> tuple[Values, Float[Tensor, " batch"] | None]:
    """F0 at the places of a site, and y(x0) where the baseline had to be run for it."""
    assert context.again is not None
    if is_local(baseline):
        return {p.key: zeroed(context.recording, p, local_streams(context, baseline)) for p in found}, None
    x0 = reference(context, baseline)
    start: Values = {p.key: x0.get(str(p.key), p.F) for p in found}
    if site.kind == "input":
        return start, None
    made = context.again.run([Replace(dict(x0))], states=True)
    start |= {s.key: s.value.detach() for s in made.states if s.key in start}
    return start, context.again.y(made.output).float().cpu()


def zeroed(recording: Recording, place: Place, names: set[str] | None) -> Tensor:
    """F with the tokens of some streams at zero (None: all of it)."""
    if names is None:
        return torch.zeros_like(place.F)
    if isinstance(place.key, str):
        return torch.zeros_like(place.F) if stream_of(place.key) in names else place.F
    own = [torch.arange(s.first, s.first + s.count) for s in recording.streams if s.name in names]
    there = torch.isin(place.ids % STRIDE, torch.cat(own)) if own else torch.zeros_like(place.ids, dtype=torch.bool)
    return place.F.masked_fill(there.to(place.F.device), 0.0)


def between(F0: Tensor, place: Place, t: Float[Tensor, " node"]) -> Tensor:
    """F0 + t (F − F0) for each t, one after the other along the samples' axis."""
    return torch.cat([torch.lerp(F0, place.F, float(s)) for s in t], place.samples).detach()


@dataclass
class Path:
    """From F0 to F at a site.

    Attributes:
        places: the site's tensors. start: F0 there. y: f at F; y0: f at F0, measured by running it, (batch,) each.
        site, baseline: as the receipt names them. at_input: y(x0) of a propagated baseline, (batch,): what y0 is at a frontier.
        nodes: points of the path that were run so far.
    """

    recording: Recording
    again: Rerun
    places: list[Place]
    start: Values
    y: Float[Tensor, " batch"]
    y0: Float[Tensor, " batch"]
    site: Site
    baseline: str
    at_input: Tensor | None = None
    nodes: int = 0
    alone: int | None = None

    @classmethod
    def make(cls, context: Context, site: Site, baseline: Baselines) -> Path:
        """Run the baseline, and find F0. Raises Misuse for a baseline or site that does not fit."""
        assert context.again is not None
        site, found = sealed(context, site)
        context.cells = cells_of(context.recording, found)
        with torch.no_grad():
            start, at_input = start_of(context, found, site, baseline)
            y0 = context.again.y(context.again.output(start)).float().cpu()
        y = context.gradients.value.float().cpu()
        return cls(context.recording, context.again, found, start, y, y0, site, label(baseline), at_input)

    @property
    def complete(self) -> bool:
        """Whether the site is a frontier: y is a function of it alone."""
        return self.site.kind != "attention" and self.site.stream is None

    @property
    def passes(self) -> int:
        """Forward and gradient passes so far: two a node, one for y0, one for F0."""
        return 2 * self.nodes + 1 + (self.at_input is not None)

    @property
    def T(self) -> Float[Tensor, " batch"]:
        """f(F) − f(F0)."""
        return self.y - self.y0

    def of_sample(self, i: int) -> Path:
        """The same for one sample alone."""
        one = slice(i, i + 1)
        start = {p.key: self.start[p.key].narrow(p.samples, i, 1) for p in self.places}
        some = [p.of_sample(i) for p in self.places]
        again = self.again.of_sample(i)
        return replace(self, again=again, places=some, start=start, y=self.y[one], y0=self.y0[one], nodes=0, alone=i)

    def at(self, t: Float[Tensor, " node"]) -> Float[Tensor, "node batch row"]:
        """(F − F0) ⊙ ∂f/∂F at points of the path, summed over each row's features."""
        out: list[Relevance] = []
        self.nodes += len(t)
        fit = 1 if any(p.unsure for p in self.places) else side_by_side(self.recording, self.again)
        for some in t.tensor_split(-(-len(t) // fit)):
            out += self._side_by_side(some)
        return torch.stack(out)

    def _side_by_side(self, t: Tensor) -> list[Relevance]:
        """Points as one batch; one by one in a model that takes no other batch than the user's."""
        try:
            return self._at(t)
        except (RuntimeError, ValueError, IndexError, RegardError):
            if len(t) == 1:
                raise
            return [r for s in t.split(1) for r in self._at(s)]

    def _at(self, t: Tensor) -> list[Relevance]:
        k = len(t)
        with torch.enable_grad():
            values = {p.key: between(self.start[p.key], p, t).requires_grad_() for p in self.places}
            output = self.again.output(values, copies=k)
            output = self.again.copied(output, self.recording.output, k, self.recording.batch)
            if output is None:
                return [r for s in t.split(1) for r in self._at(s)]  # samples of this output rest on one another
            grads = gradients_at([*values.values()], self.again.y(output, k).sum())
        steps = {p.key: p.F - self.start[p.key] for p in self.places}
        out = []
        for i in range(k):
            parts = [
                p.rows(steps[p.key] * g.chunk(k, p.samples)[i], self.recording)
                for p, g in zip(self.places, grads, strict=True)
                if g is not None
            ]
            out.append(torch.stack(parts).sum(0) if parts else self.recording.zeros())
        return out

    def gradient(self, values: Values, half: int | None = None) -> Values:
        """∂y/∂F at some values of the site; of one half of a contrast where that is asked for."""
        with torch.enable_grad():
            leaves = {k: v.detach().clone().requires_grad_() for k, v in values.items()}
            y = self.again.y(self.again.output(leaves), half=half)
            grads = gradients_at([*leaves.values()], y.sum())
        self.nodes += 1
        return {k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(leaves.items(), grads, strict=True)}


@dataclass
class AttentionPath(Path):
    """A of one call, or of all calls together, scaled from 0 to 1: A ⊙ G at points of it, for each key, heads summed."""

    calls: tuple[int, ...] | None = None

    @classmethod
    def make(cls, context: Context, site: Site, baseline: Baselines) -> AttentionPath:
        """Run with the call's output zeroed. The baseline of A is 0; no other can be given."""
        assert context.again is not None
        if baseline is not None:
            raise Misuse("at an attention site the baseline is always A0 = 0; leave baseline= out")
        layers = context.recording.attentions
        if not site.joint and (site.layer is None or not -len(layers) <= site.layer < len(layers)):
            raise Misuse(f"attention {site.layer} is out of range: the run has {len(layers)}, numbered from 0")
        calls = None if site.joint or site.layer is None else layers[site.layer].calls
        for call in context.recording.calls:
            if call.weights is not None and (calls is None or call.index in calls):
                raise Misuse(
                    f"the map of attention call {call.index} ({call.module or 'the model itself'}) multiplies several values: "
                    "it cannot be the site of a path; choose Site.input() or Site.block(l)"
                )
        with torch.no_grad():
            y0 = context.again.y(context.again.run([Scale(0.0, calls)]).output).float().cpu()
        y = context.gradients.value.float().cpu()
        return cls(context.recording, context.again, [], {}, y, y0, site, "A = 0", calls=calls)

    def _at(self, t: Tensor) -> list[Relevance]:
        k, recording = len(t), self.recording
        with torch.enable_grad():
            made = self.again.run([Scale(t.float().repeat_interleave(self.again.batch), self.calls)], copies=k)
            output = self.again.copied(made.output, recording.output, k, recording.batch)
            if k > 1 and (
                output is None or len(made.calls) != len(recording.calls)
            ):  # a loop over samples makes more calls
                return [r for s in t.split(1) for r in self._at(s)]  # samples of this output rest on one another
            wanted = [c for c in made.calls if self.calls is None or c.index in self.calls]
            y = self.again.y(output, k).sum()
            grads = torch.autograd.grad(y, [c.output for c in wanted], allow_unused=True)
        out = torch.zeros(k * self.again.batch, recording.rows, dtype=recording.precision)
        for call, dO in zip(wanted, grads, strict=True):
            ones = torch.ones(call.queries.shape, dtype=torch.float32)
            moved = call.bind(dO).pull_all([Pull(ones, EDGES["signed"])])[0].moved * call.shape[1]
            samples, rows = call.keys // STRIDE - 1, call.keys % STRIDE
            out.index_put_((samples.clamp(min=0), rows), torch.where(rows > 0, moved.to(out), 0.0), accumulate=True)
        by_node = out.view(k, self.again.batch, recording.rows)
        if self.alone is not None:
            by_node = torch.nn.functional.pad(by_node, (0, 0, self.alone, recording.batch - self.alone - 1))
        return list(by_node)


def path(context: Context, site: Site, baseline: Baselines) -> Path:
    """The path at a site."""
    return (AttentionPath if site.kind == "attention" else Path).make(context, site, baseline)


def side_by_side(recording: Recording, again: Rerun, graph: bool = True) -> int:
    """How many points fit the memory budget at a time, by what one run of the recorded batch made.

    graph=False: what is made before the last attention call is not kept.
    """
    if not again.can_be_cut:
        return 1
    one = max(1, recording.made * again.batch // recording.batch)
    if not graph:
        one = max(1, one // len(recording.calls))
    return max(1, recording.budget // one)


__all__ = ["AttentionPath", "Path", "Place", "between", "edits", "path", "places", "start_of"]
