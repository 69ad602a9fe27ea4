"""A recorded run: calls, streams, output; gradients for a target; the read-out, and the walk that begins at it.

Relevance lives on (sample, row), rows numbered over all streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import ModelError
from regard.recording.backward import AttentionRule, Correctable
from regard.recording.calls import AttentionCall
from regard.recording.calls.certainty import Certainty
from regard.recording.calls.residual import Branch
from regard.recording.frames import Block
from regard.recording.gradient import CUT, Gradients, LateGradients, gradient
from regard.recording.inputs import Inputs
from regard.recording.relevance.call_graph import CallGraph
from regard.recording.relevance.propagation import Part, Step, Walked, Walker, unmerged, walk
from regard.recording.relevance.readout import Readout, found, given
from regard.recording.relevance.rows import Relevance, Relevances
from regard.recording.states import State, embeddings, frontier
from regard.recording.tokens.overrides import Overrides
from regard.recording.tokens.rasters import flat_grid
from regard.recording.tokens.rereads import Reread
from regard.recording.tokens.tags import STRIDE, Mixing, Stream, constant, stream_of
from regard.target import Target

NO_GRADIENT = (
    "the target has no gradient: the model ran under torch.no_grad() or detaches its output; remove that, or explain a model "
    "that keeps its graph"
)


@dataclass(kw_only=True)
class Recording(CallGraph):
    """One watched run of a model: its calls and rows (`CallGraph`, `RowSpace`), and what else was seen of it.

    Attributes:
        given: the inputs as they were given (inputs.py). output: what the model returned, samples first; `returned`: as it did.
        embedded: id stream -> ids (batch, token) of the rows of its word embeddings. placed: stream of whole numbers that are
            no ids -> where its elements stand in what enters.
        states: what went into and came out of blocks, where that was asked for. made: bytes that all operations made.
        branches: event of a call -> what stands around it, where that was asked for (calls/residual.py).
        overrides: what the user says of the tokens. certainty: call -> how sure its tokens are. asked: the read-out asked for.
        aliases: an input -> the stream that it first met element by element; meets: all of them.
        mixers: operations outside attention that mix rows in a way that is not followed; mixings: where, and from when on.
        whole: the tokens of every attention call are known, and there is one: maps can be followed.
        stages: all streams of the run, also those that no call reads. guessed: blocks whose rows are known by place alone.
        modules: a mixer -> the modules in which it mixed. unseen: operations that wrote values past autograd.
        rereads: where earlier states of rows met later ones.
        plain: (operation, module) of what kept its plain gradient under rules of the backward pass.
        ruled: gradients flow by rules of the backward pass, parameters being constants.
        correctable: what lets a gradient be corrected where it passes through attention, where that was asked for.
        renamed: sentences on rows of one input that went on under the name of another's.
    """

    model: nn.Module = field(repr=False)
    given: Inputs = field(repr=False)
    output: Any = field(repr=False)
    embedded: dict[str, Tensor] = field(repr=False)
    blocks: list[Block] = field(repr=False)
    aliases: dict[str, str] = field(default_factory=dict)
    meets: dict[str, dict[str, None]] = field(default_factory=dict)
    target: Target | None = field(default=None, repr=False)
    batches: set[int] = field(default_factory=set, repr=False)
    overrides: Overrides = field(default_factory=lambda: Overrides([]), repr=False)
    certainty: dict[int, Certainty] = field(default_factory=dict, repr=False)
    asked: Readout = field(default=None, repr=False)
    states: list[State] = field(default_factory=list, repr=False)
    made: int = 0
    mixers: list[str] = field(default_factory=list)
    mixings: list[Mixing] = field(default_factory=list)
    branches: dict[int, Branch] = field(default_factory=dict, repr=False)
    returned: Any = field(default=None, repr=False)
    placed: dict[str, Tensor] = field(default_factory=dict, repr=False)
    whole: bool = True
    stages: list[Stream] = field(default_factory=list, repr=False)
    guessed: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    rereads: list[Reread] = field(default_factory=list, repr=False)
    modules: dict[str, list[str]] = field(default_factory=dict)
    plain: list[tuple[str, str]] = field(default_factory=list)
    ruled: bool = False
    correctable: Correctable | None = field(default=None, repr=False)

    @property
    def inputs(self) -> dict[str, Any]:
        """The inputs by name; of nested ones also by the last part of their names, where no other has it."""
        return self.given.bare

    def axis(self, name: str) -> int | None:
        """Which axis is the samples' of what enters under a name: of an input, or of its word embeddings."""
        entry = stream_of(name)
        ids = self.embedded.get(name, self.placed.get(name))
        if ids is None:
            return self.given.axis(entry)
        sample = ids // STRIDE
        varies = [d for d in range(sample.ndim) if not constant(sample, d)]
        return varies[0] if varies else self.given.axis(entry)

    def is_picture(self, stream: Stream) -> bool:
        """Whether a stream's tokens are patches that lie on a grid."""
        flat = stream.grid is None and flat_grid(stream.name, stream.count, self.inputs) is not None
        return stream.of_input and (stream.grid is not None or flat)

    # -- gradients --------------------------------------------------------------------------------------------------

    def gradients(
        self,
        target: Any = None,
        *,
        keep: bool = False,
        states: Sequence[State] = (),
        inputs: bool = True,
        calls: Sequence[int] | None = None,
        correction: AttentionRule | None = None,
    ) -> Gradients:
        """∂y/∂O of every call, ∂y/∂x of every input (`inputs`) and of some states, in one backward pass to the first of them.

        `target` is what `regard.explain` takes (None: the one given to `regard.record`, else the predicted class), or y
        itself, (batch,), computed from `output`. Parameters get no gradient. keep: another target follows. calls: those that
        are asked for (None: all); the others are left unbound. correction: how the gradient is changed where it passes
        through attention (of a recording that is `correctable`).
        """
        if isinstance(target, Tensor) and target.is_floating_point():
            value = target
        else:
            with torch.enable_grad():
                made = Target.make(self.target if target is None else target).on(self.model, self.output)
                value = made.value(self.output, self.inputs).y
        if not value.requires_grad:
            raise ModelError(CUT if self.ruled else NO_GRADIENT)
        leaves = self.leaves if inputs else {}
        asked = self.calls if calls is None else [self.calls[i] for i in calls]
        at = [c.output for c in asked] + list(leaves.values()) + [s.value for s in states]
        at += [c.weights.root for c in asked if c.weights is not None]
        wanted = [t for t in at if t.requires_grad]
        with self._corrected(correction):
            found = iter(gradient(value, wanted, keep=keep) if wanted else [])
        grads = [next(found) if t.requires_grad else None for t in at]
        roots = iter(grads[len(grads) - sum(c.weights is not None for c in asked) :])
        bound = [c.bind(g, None if c.weights is None else next(roots)) for c, g in zip(asked, grads, strict=False)]
        every = self._beside([*({c.index: c for c in self.calls} | {c.index: c for c in bound}).values()])
        whole = [torch.zeros_like(t) if g is None else g.detach() for t, g in zip(at, grads, strict=True)]
        n, m = len(asked), len(asked) + len(leaves)
        at_inputs = dict(zip(leaves, whole[n:m], strict=True))
        at_states = {s.key: g for s, g in zip(states, whole[m:], strict=False)}
        cut = inputs and all(g is None for g in grads[n:m])
        return Gradients(every, at_inputs, value.detach(), at_states, cut)

    @contextmanager
    def _corrected(self, correction: AttentionRule | None) -> Iterator[None]:
        """While a gradient is taken, attention's backward pass goes by a rule."""
        if correction is None:
            yield
            return
        if self.correctable is None:
            raise ValueError("this recording keeps attention's own backward pass; record with correctable=True")
        self.correctable.rule = correction
        try:
            yield
        finally:
            self.correctable.rule = None

    def gradients_later(self, y: Tensor, *, last: bool = False, **how: Any) -> Gradients:
        """The same, taken when first read: a method that runs points of its own needs no gradient of this run.

        last: of the calls, the last ones are asked for alone, and the gradient goes no further down where these suffice.
        """
        some = partial(self._bound_at, y) if last and y.requires_grad else None
        return LateGradients(lambda: self.gradients(y, **how), y.detach(), some)

    def _bound_at(self, y: Tensor, calls: Sequence[int] | None = None) -> list[AttentionCall] | None:
        """All calls, those named bound to y, or those of the final attentions.

        None where the final ones are not all that a read-out asks for: y does not move each of them, so that others may be
        the last for it, or rows of earlier ones are taken along by none, so that it may read these.
        """
        ends = self.final_attentions()
        if calls is None and (not ends or any(a not in ends for a in self.left_over)):
            return None
        wanted = [i for a in ends for i in self.attentions[a].calls] if calls is None else calls
        found = self.gradients(y, keep=True, inputs=False, calls=wanted).calls
        moved = {c.attention for c in (found[i] for i in wanted) if c.dO is not None and bool(c.dO.any())}
        return None if calls is None and moved != {*ends} else found

    def _beside(self, calls: list[AttentionCall]) -> list[AttentionCall]:
        """Bound calls, each with the others of its attention."""
        several = {i: a.calls for a in self.attentions if len(a.calls) > 1 for i in a.calls}
        if not several:
            return calls
        mates = {
            c.index: tuple(calls[i] for i in several[c.index] if i != c.index) for c in calls if c.index in several
        }
        return [replace(c, beside=mates.get(c.index, ())) for c in calls]

    # -- states -----------------------------------------------------------------------------------------------------

    def frontier(self, layer: int | None, stream: str | None = None) -> list[State]:
        """The states of all streams (or one) after a block; before all blocks where `layer` is None (see states.py).

        Negative numbers count from the end of each tower: of a model that encodes a picture and a text apart, block −2 is the
        last but one of either.
        """
        blocks = [(b.module, b.visit) for b in self.blocks]
        if not blocks:
            raise ModelError("no block (an element of a ModuleList that holds attention) was seen; use Site.input()")
        if layer is None:
            return embeddings(self.states, blocks)
        return frontier(self.states, self.blocks_apart(), layer, stream)

    def blocks_apart(self) -> list[list[tuple[str, int]]]:
        """The blocks in execution order, by towers that read none of one another's tokens; all as one where that is unsure."""
        every = [(b.module, b.visit) for b in self.blocks]
        if not self.whole or not all(b.calls for b in self.blocks):
            return [every]
        joined = {source: source for source in self.sources.unique().tolist()}

        def root(source: int) -> int:
            while joined[source] != source:
                source = joined[source]
            return source

        for call in self.calls:
            rows, keys = self.ends(call)
            if rows and keys:
                joined[root(rows)] = root(keys)
        of = [root(self.ends(self.calls[b.calls[0]])[0]) for b in self.blocks]
        known = {root(int(self.sources[s.first])) for s in self.streams if s.shown}
        if not {*of} <= known:
            return [every]
        return [[at for at, tower in zip(every, of, strict=True) if tower == t] for t in dict.fromkeys(of)]

    # -- read-out ---------------------------------------------------------------------------------------------------

    def readout(self, gradients: Gradients) -> dict[int, Relevance]:
        """Which final rows the target reads: final attention -> weights r (batch, row), sum 1 per sample in each.

        What was asked for (`record(readout=)`), else what the gradient tells (relevance/readout.py).
        """
        if self.asked is None:
            return found(self, gradients)
        return given(self, gradients, self.asked, self.inputs, self.output)

    def doubts(self) -> list[str]:
        """What is unsure of the calls' tokens, one sentence for each kind of doubt."""
        calls: dict[tuple[str, ...], list[str]] = {}
        for index, certainty in self.certainty.items():
            if certainty.doubts:
                calls.setdefault(certainty.doubts, []).append(str(index))
        return [f"unsure in attention call {', '.join(c)}: {'; '.join(doubts)}" for doubts, c in calls.items()]

    # -- the walk ---------------------------------------------------------------------------------------------------

    def walk(
        self,
        gradients: Gradients | None,
        readout: dict[int, Relevance],
        steps: Sequence[Callable[[AttentionCall], Step | None]],
    ) -> list[Relevance]:
        """Relevance of every row, r + Σ_c w_c E_c, by several methods at once (see `walk_apart`)."""
        return [w.moved + w.itself for w in self.walk_apart(gradients, readout, steps)]

    def walk_apart(
        self,
        gradients: Gradients | None,
        readout: dict[int, Relevances],
        steps: Sequence[Callable[[AttentionCall], Step | None]],
        *,
        keep: bool = True,
    ) -> list[Walked]:
        """The walk (propagation.py), with r and Σ_c w_c E_c kept apart: a small map would drown in r's rounding.

        `readout`: final attention -> r, one row of relevance or several, (read, batch, row): a matrix of rows. `steps[i]` says
        how method i weighs a call (None: it is passed by). Each call's A and G are rebuilt once and serve all methods.
        keep=False: only paths whose first step is a final attention's.
        """
        parts = [Part(self.seen_by(a) if keep else self.events_of(a), r) for a, r in readout.items()]
        return walk(self, (gradients or self).calls, [Walker(step, [*parts]) for step in steps])

    def settled(self, relevance: Relevances) -> Relevances:
        """Relevance on merged rows brought back to the tokens they were made of."""
        for merge in reversed(self.merges):
            relevance = sum(
                (p.r for p in unmerged(merge, Part(1 << merge.event, relevance))), torch.zeros_like(relevance)
            )
        return relevance
