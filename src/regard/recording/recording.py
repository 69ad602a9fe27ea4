"""A recorded run: calls in order, streams, output; gradients for a target; the read-out that the walk (walk.py) begins at.

Relevance lives on (sample, row), rows numbered over all streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from regard.errors import ModelError, NoAttention, TrailLost, Unmoved
from regard.recording import recorder
from regard.recording.calls import AttentionCall
from regard.recording.calls import certainty as sure
from regard.recording.calls.attention import Attention, attentions
from regard.recording.calls.rebuild import MEMORY_BUDGET, budget_of
from regard.recording.calls.residual import Branch
from regard.recording.edits import Edit
from regard.recording.frames import Block
from regard.recording.gradient import gradient
from regard.recording.inputs import Inputs
from regard.recording.refusals import Readout, check_readout, our_own, refuse
from regard.recording.relevance.padding import padding
from regard.recording.relevance.propagation import (
    Part,
    Relevance,
    Relevances,
    Step,
    Walked,
    Walker,
    source_of,
    sources,
    unmerged,
    walk,
)
from regard.recording.states import Key, State, embeddings, frontier
from regard.recording.tokens import samples
from regard.recording.tokens.meetings import of_other_tokens, renamed
from regard.recording.tokens.overrides import Said
from regard.recording.tokens.own_tokens import own_tokens
from regard.recording.tokens.rereads import Reread
from regard.recording.tokens.tracker import STRIDE, Merge, Mixing, Stream, constant
from regard.target import Target


@dataclass
class Gradients:
    """One target's gradients: calls bound to dO, the gradient at each input (word embeddings for ids), and at states.

    cut: none reaches any input, for the model's forward keeps no graph from them to the target.
    """

    calls: list[AttentionCall]
    inputs: dict[str, Tensor]
    value: Float[Tensor, " batch"]
    states: dict[Key, Tensor] = field(default_factory=dict)
    cut: bool = field(default_factory=bool)


class LateGradients(Gradients):
    """Gradients that are taken when one is first asked for."""

    def __init__(self, take: Callable[[], Gradients], value: Tensor) -> None:
        self._take, self.value = take, value

    def __getattr__(self, name: str) -> Any:
        if name not in ("calls", "inputs", "states", "cut"):
            raise AttributeError(name)
        self.__dict__ |= self._take().__dict__
        return self.__dict__[name]


@dataclass
class Recording:
    """One watched run of a model.

    Attributes:
        given: the inputs as they were given (inputs.py). output: what the model returned, samples first; `returned`: as it did.
        calls: attention calls in execution order. attentions: the layer-level units that they make (calls/attention.py).
        streams: all token streams that calls read.
        leaves: stream -> the tensor at which its gradient is taken (the input itself; word embeddings for ids).
        embedded: id stream -> ids (batch, token) of the rows of its word embeddings. placed: stream of whole numbers that are
            no ids -> where its elements stand in what enters.
        padded: stream -> bool (batch, tokens), True where a token is padding.
        states: what went into and came out of blocks, where that was asked for. made: bytes that all operations made.
        branches: event of a call -> what stands around it, where that was asked for (branches.py).
        said: what the user said of the tokens. sure: call -> how sure its tokens are, in words. asked: the read-out asked for.
        aliases: an input -> the stream that it first met element by element; meets: all of them.
        mixers: operations outside attention that mix rows in a way that is not followed; mixings: where, and from when on.
        whole: the tokens of every attention call are known, and there is one: maps can be followed.
        stages: all streams of the run, also those that no call reads. guessed: blocks whose rows are known by place alone.
        modules: a mixer -> the modules in which it mixed. unseen: operations that wrote values past autograd.
        rereads: where earlier states of rows met later ones.
        renamed: sentences on rows of one input that went on under the name of another's (meetings.py).
    """

    model: nn.Module = field(repr=False)
    given: Inputs = field(repr=False)
    output: Any = field(repr=False)
    calls: list[AttentionCall]
    streams: list[Stream]
    merges: list[Merge]
    leaves: dict[str, Tensor] = field(repr=False)
    embedded: dict[str, Tensor] = field(repr=False)
    blocks: list[Block] = field(repr=False)
    batch: int
    rows: int
    final_seen: dict[int, int] = field(repr=False)
    aliases: dict[str, str] = field(default_factory=dict)
    meets: dict[str, dict[str, None]] = field(default_factory=dict)
    target: Target | None = field(default=None, repr=False)
    batches: set[int] = field(default_factory=set, repr=False)
    padded: dict[str, Tensor] = field(default_factory=dict, repr=False)
    said: Said = field(default_factory=lambda: Said([]), repr=False)
    sure: dict[int, str] = field(default_factory=dict, repr=False)
    asked: Readout = field(default=None, repr=False)
    states: list[State] = field(default_factory=list, repr=False)
    made: int = 0
    budget: int = MEMORY_BUDGET
    mixers: list[str] = field(default_factory=list)
    mixings: list[Mixing] = field(default_factory=list)
    branches: dict[int, Branch] = field(default_factory=dict, repr=False)
    attentions: list[Attention] = field(default_factory=list)
    returned: Any = field(default=None, repr=False)
    placed: dict[str, Tensor] = field(default_factory=dict, repr=False)
    whole: bool = True
    stages: list[Stream] = field(default_factory=list, repr=False)
    guessed: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    rereads: list[Reread] = field(default_factory=list, repr=False)
    modules: dict[str, list[str]] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Any]:
        """The inputs by name; of nested ones also by the last part of their names, where no other has it."""
        return self.given.bare

    def axis(self, name: str) -> int | None:
        """Which axis is the samples' of what enters under a name: of an input, or of its word embeddings."""
        entry = name.partition("#")[0]
        ids = self.embedded.get(name, self.placed.get(name))
        if ids is None:
            return self.given.axis(entry)
        sample = ids // STRIDE
        varies = [d for d in range(sample.ndim) if not constant(sample, d)]
        return varies[0] if varies else self.given.axis(entry)

    # -- gradients --------------------------------------------------------------------------------------------------

    def gradients(
        self, target: Any = None, *, keep: bool = False, states: Sequence[State] = (), inputs: bool = True
    ) -> Gradients:
        """∂y/∂O of every call, ∂y/∂x of every input (`inputs`) and of some states, in one backward pass to the first of them.

        `target` is what `regard.explain` takes (None: the one given to `regard.record`, else the predicted class), or y
        itself, (batch,), computed from `output`. Parameters get no gradient. keep: another target follows.
        """
        if isinstance(target, Tensor) and target.is_floating_point():
            value = target
        else:
            with torch.enable_grad():
                made = Target.make(self.target if target is None else target).on(self.model, self.output)
                value = made.value(self.output, self.inputs).y
        if not value.requires_grad:
            raise ModelError(
                "the target has no gradient: the model ran under torch.no_grad() or detaches its output; "
                "remove that, or explain a model that keeps its graph"
            )
        leaves = self.leaves if inputs else {}
        at = [c.output for c in self.calls] + list(leaves.values()) + [s.value for s in states]
        at += [c.weights.root for c in self.calls if c.weights is not None]
        wanted = [t for t in at if t.requires_grad]
        found = iter(gradient(value, wanted, keep=keep) if wanted else [])
        grads = [next(found) if t.requires_grad else None for t in at]
        roots = iter(grads[len(grads) - sum(c.weights is not None for c in self.calls) :])
        calls = [c.bind(g, None if c.weights is None else next(roots)) for c, g in zip(self.calls, grads, strict=False)]
        calls = self._beside(calls)
        whole = [torch.zeros_like(t) if g is None else g.detach() for t, g in zip(at, grads, strict=True)]
        n, m = len(self.calls), len(self.calls) + len(leaves)
        at_inputs = dict(zip(leaves, whole[n:m], strict=True))
        at_states = {s.key: g for s, g in zip(states, whole[m:], strict=False)}
        cut = inputs and all(g is None for g in grads[n:m])
        return Gradients(calls, at_inputs, value.detach(), at_states, cut)

    def gradients_later(self, y: Tensor, *, keep: bool = False, inputs: bool = True) -> Gradients:
        """The same, taken when first read: a method that runs points of its own needs no gradient of this run."""
        return LateGradients(lambda: self.gradients(y, keep=keep, inputs=inputs), y.detach())

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
        """The states of all streams (or one) after a block; before all blocks where `layer` is None (see states.py)."""
        blocks = [(b.module, b.visit) for b in self.blocks]
        if not blocks:
            raise ModelError("no block (an element of a ModuleList that holds attention) was seen; use Site.input()")
        if layer is None:
            return embeddings(self.states, blocks)
        return frontier(self.states, blocks, layer, stream)

    # -- rows -------------------------------------------------------------------------------------------------------

    @property
    def precision(self) -> torch.dtype:
        """What relevance is counted in: float32, or float64 where a call is."""
        counted = [c.precision for c in self.calls] if self.calls else [t.dtype for t in self.leaves.values()]
        return torch.float64 if torch.float64 in counted else torch.float32

    def zeros(self) -> Relevance:
        """No relevance anywhere."""
        return torch.zeros(self.batch, self.rows, dtype=self.precision)

    def gather(self, relevance: Relevances, ids: Tensor) -> Tensor:
        """Relevance at the rows of a call: ids (group, token) -> (*read, group, token); nobody has none."""
        samples, rows = ids // STRIDE - 1, ids % STRIDE
        return relevance[..., samples.clamp(min=0), rows] * (rows > 0)

    def scatter(self, values: Tensor, ids: Tensor) -> Relevances:
        """The transpose of `gather`: values at a call's rows, added up where windows share a row."""
        samples, rows = ids // STRIDE - 1, ids % STRIDE
        values = torch.where(rows > 0, values.to(self.precision).cpu(), 0.0).flatten(-ids.ndim)
        out = torch.zeros(*values.shape[:-1], self.batch * self.rows, dtype=values.dtype)
        out.index_add_(-1, (samples.clamp(min=0) * self.rows + rows).flatten(), values)
        return out.view(*out.shape[:-1], self.batch, self.rows)

    def hidden(self) -> Bool[Tensor, "batch row"]:
        """Padding."""
        out = torch.zeros(self.batch, self.rows, dtype=torch.bool)
        for stream in self.streams:
            if stream.shown:
                out[:, stream.rows] = self.padded[stream.name]
        return out

    def stream(self, name: str) -> Stream:
        """The (last) stream of a name that calls read."""
        return next(s for s in reversed(self.streams) if s.name == name and s.shown)

    @cached_property
    def sources(self) -> Int[Tensor, " row"]:
        """The number of each row's source (walk.py): 0 for rows of no stream in use."""
        return sources(self)

    def ends(self, call: AttentionCall) -> tuple[int, int]:
        """The sources of a call's rows and of its keys."""
        return source_of(call.queries, self.sources), source_of(call.keys, self.sources)

    # -- read-out ---------------------------------------------------------------------------------------------------

    def calls_of(self, attention: int, gradients: Gradients | None = None) -> list[AttentionCall]:
        """The calls of an attention, bound to a target where its gradients are given."""
        return [(gradients or self).calls[i] for i in self.attentions[attention].calls]

    def final_attentions(self, of: Sequence[int] | None = None) -> list[int]:
        """Attentions (of those given) whose output no later one reads: what the head reads is among their query rows."""
        numbers = range(len(self.attentions)) if of is None else of
        calls = {a: self.calls_of(a) for a in numbers}
        later = 0
        for call in (c for some in calls.values() for c in some):
            later |= call.seen | call.rows_seen | call.keys_seen
        ends = {a: some for a, some in calls.items() if not any(later >> c.event & 1 for c in some)}
        return [a for a, some in ends.items() if not any(self._holds(b, some) for b in ends if b > a)]

    def final_calls(self) -> list[AttentionCall]:
        """The calls of the final attentions."""
        return [c for a in self.final_attentions() for c in self.calls_of(a)]

    def _holds(self, later: int, calls: Sequence[AttentionCall]) -> bool:
        """Whether the state after an attention holds the output of other calls, in rows that both wrote (two pooled rows may
        be joined)."""
        seen, written = self.seen_by(later), torch.cat([c.queries.flatten() for c in self.calls_of(later)])
        return any(seen >> c.event & 1 and bool(torch.isin(c.queries, written).any()) for c in calls)

    def read_attentions(self, gradients: Gradients) -> dict[int, Relevance]:
        """Final attentions that the target depends on, with the norm of ∂y/∂O at each of their rows (batch, row)."""
        squares: dict[int, Relevance] = {}
        for call in gradients.calls:
            assert call.dO is not None
            norms = torch.linalg.vector_norm(call.canonical(call.dO).to(call.precision), dim=3)
            if bool(norms.any()) or bool(call.dO.any()):  # norms of very small gradients are zero
                square = norms.pow(2).sum(1).cpu()
                if bool(square[call.queries == 0].any()):
                    squares.setdefault(call.attention, self.zeros())[:, 0] = torch.inf  # nobody's rows are read
                squares[call.attention] = squares.get(call.attention, self.zeros()) + self.scatter(square, call.queries)
        final = self.final_attentions([*squares])
        if not final:
            raise Unmoved(self.unmoved(gradients))
        return {a: squares[a].sqrt() for a in final}

    def unmoved(self, gradients: Gradients) -> str:
        """Why no attention call has a gradient."""
        cut = any(c.detached for c in self.calls)
        if not cut and self.leaves and not any(bool(g.any()) for g in gradients.inputs.values()):
            return (
                f"the target is constant here: it is {float(gradients.value[0]):.4g}, with a gradient of zero at all inputs "
                "and attention calls. A softmax over one class is constant, and so is a probability that is 1 or 0 to the last "
                "digit (explain the logit); and layers that round, as quantised ones may, pass no gradient"
            )
        if cut:
            return cut_off([c for c in self.calls if c.detached])
        return (
            "the target does not depend on any attention call: its gradient is zero at all of them (layers that round "
            "their inputs, as quantised ones may, pass none)"
        )

    def readout(self, gradients: Gradients) -> dict[int, Relevance]:
        """Which final rows the target reads, found from the gradient: final attention -> weights r (batch, row).

        Our reading: a row weighs as much as the norm of ∂y/∂O there in its final attention (of all its heads together); the
        weights of each final attention sum to 1 per sample (CLIP's similarity reads two, one in each tower). What was asked
        for (`record(readout=)`) goes first.
        """
        if self.asked is not None:
            from regard.recording.relevance.readout import given

            return given(self, gradients, self.asked)
        weights = {}
        for a, norms in self.read_attentions(gradients).items():
            if bool(norms[:, 0].any()):
                index = self.attentions[a].calls[0]
                raise TrailLost(
                    f"the target reads rows of attention call {index} ({self.calls[index].module}) that come from no input "
                    "or parameter that was followed; name the rows to read from with readout="
                )
            weights[a] = norms / norms.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        return weights

    def seen_by(self, attention: int) -> int:
        """Events that the state after a final attention has absorbed (through the residual stream around it)."""
        seen = 0
        for call in self.calls_of(attention):
            seen |= self.final_seen.get(call.event, 0) | 1 << call.event
        return seen

    def doubts(self) -> list[str]:
        """What is unsure of the calls' tokens, one sentence for each kind of doubt."""
        calls: dict[str, list[str]] = {}
        for index, words in self.sure.items():
            _, doubtful, doubt = words.partition(", but ")
            if doubtful:
                calls.setdefault(doubt, []).append(str(index))
        return [f"unsure in attention call {', '.join(c)}: {doubt}" for doubt, c in calls.items()]

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
        """The walk (walk.py), with r and Σ_c w_c E_c kept apart: a small map would drown in r's rounding.

        `readout`: final attention -> r, one row of relevance or several, (read, batch, row): a matrix of rows. `steps[i]` says
        how method i weighs a call (None: it is passed by). Each call's A and G are rebuilt once and serve all methods.
        keep=False: only paths whose first step is a final attention's.
        """
        parts = [Part(self.seen_by(a) if keep else self._events(a), r) for a, r in readout.items()]
        return walk(self, (gradients or self).calls, [Walker(step, [*parts]) for step in steps])

    def _events(self, attention: int) -> int:
        """The events of an attention's own calls."""
        return sum(1 << c.event for c in self.calls_of(attention))

    def settled(self, relevance: Relevances) -> Relevances:
        """Relevance on merged rows brought back to the tokens they were made of."""
        for merge in reversed(self.merges):
            relevance = sum(
                (p.r for p in unmerged(merge, Part(1 << merge.event, relevance))), torch.zeros_like(relevance)
            )
        return relevance


def record(
    model: nn.Module,
    inputs: Any,
    target: Any = None,
    *,
    edits: Sequence[Edit] = (),
    streams: Any = None,
    readout: Readout = None,
    training: bool = False,
    strict: bool = True,
    memory_budget: int | str | None = None,
    states: bool = False,
    branches: bool = False,
    batch_axis: Any = 0,
    maps: bool = True,
    checked: bool = False,
) -> Recording:
    """Watch one run of a model. Its mode, parameters, hooks and the caller's tensors are left as found.

    `target` is what `Recording.gradients()` explains when it is given none; `edits` change the run (edits.py); `streams` says
    whose tokens calls read where the trail is lost (said.py), `readout` which rows `Recording.readout` is to give.
    `memory_budget` (bytes, or "512MB") is what rebuilt rows, or runs side by side, may take at a time; None: 1 GB.
    `states`, `branches`: keep the states between blocks; find the output projection and residual stream of every call.
    `batch_axis`: as in `explain`.
    maps=False: attention maps are not needed, so that any differentiable model will do; every input has tokens of its own then
    (own_tokens.py). checked: the model has been through `refuse` already.

    Raises ModelError for a model that cannot be watched, or in which no attention is seen; TrailLost where it is not known
    whose tokens a call reads (unless strict=False).
    """
    target = None if target is None else Target.make(target)
    budget = budget_of(memory_budget)
    check_readout(readout)
    if not checked:
        refuse(model, training)
    with our_own():
        with torch.enable_grad():
            inputs = Inputs.of(model, inputs, batch_axis)
            run = recorder.run(model, inputs, edits, streams, states=states, branches=branches, in_place=not maps)
        return _recorded(model, target, run, readout, strict, budget, maps)


def record_inputs(
    model: nn.Module, inputs: Inputs, *, gradient: bool = True, budget: int | str | None = None
) -> Recording:
    """One run, watched only until the tokens of all inputs are made: all that a gradient at the inputs needs.

    The model has been through `refuse`. Its calls are left out. gradient=False: the run keeps no graph.
    """
    with our_own():
        with torch.set_grad_enabled(gradient):
            run = recorder.run(model, inputs, until=recorder.inputs_made)
        found = _recorded(model, None, run, None, False, budget_of(budget), False)
    return replace(found, calls=[], attentions=[], sure={}, mixers=[], whole=False)


def _recorded(
    model: nn.Module,
    target: Target | None,
    run: recorder.Run,
    readout: Readout,
    strict: bool,
    budget: int,
    maps: bool,
) -> Recording:
    """What a run left, put in order."""
    if maps and not run.calls:
        raise NoAttention(_no_attention(model))
    strict = strict and maps
    trail = run.trail
    run.calls = samples.settled(sure.contradicted(run.calls, trail), trail)
    run.calls, layers = attentions(run.calls, trail)
    if strict:
        run.said.refuse_lost(trail, {c.index: c.lost for c in run.calls if c.lost})
    used = torch.zeros(trail.rows, dtype=torch.bool)
    for call in run.calls:
        used[call.queries.flatten() % STRIDE] = True
        used[call.keys.flatten() % STRIDE] = True
    if not (maps and run.said.sayings):
        names = dict.fromkeys(k.partition("#")[0] for k in run.leaves)
        used = own_tokens(trail, used, {n: run.inputs.axis(n) for n in names})
    trail.later_stages(used)
    of_other_tokens(trail)
    batches = _batches(run.inputs, trail.streams, used) or trail.batches
    recording = Recording(
        model=model,
        given=run.inputs,
        output=run.output,
        calls=[replace(c, budget=budget) for c in run.calls],
        streams=trail.streams,
        merges=trail.merges,
        leaves=run.leaves,
        embedded=run.embedded,
        blocks=run.blocks,
        batch=max(batches),
        rows=trail.rows,
        final_seen=trail.final_seen,
        aliases=trail.aliases,
        meets=trail.meets,
        target=target,
        batches=batches,
        said=run.said,
        sure=sure.certainty(run.calls, trail, run.said),
        asked=readout,
        states=run.states,
        made=run.made,
        budget=budget,
        mixers=[*trail.mixers],
        mixings=trail.mixings,
        branches=run.branches,
        attentions=layers,
        returned=run.returned,
        whole=bool(run.calls) and not any(c.lost for c in run.calls),
        stages=trail.streams,
        placed=run.placed,
        guessed=run.guessed,
        unseen=[*trail.unseen],
        rereads=trail.rereads,
        modules={name: [*where] for name, where in trail.modules.items()},
    )
    recording.streams = _in_use(recording, used)
    recording.renamed = renamed(trail, recording.calls)
    _spread_over_others(recording, trail.spreads)
    if strict:
        from regard.recording.cuts import joined

        joined(recording)
    recording.padded = padding(recording)
    return recording


def _spread_over_others(recording: Recording, spreads: Sequence[Mixing]) -> None:
    """Rows of one stream that were added to, or multiplied with, all rows of another alike: mixing, where both are in use."""
    used = {s.name for s in recording.streams}
    for spread in spreads:
        if spread.streams <= used:
            recording.mixings.append(spread)
            if spread.operation not in recording.mixers:
                recording.mixers.append(spread.operation)


def cut_off(calls: Sequence[AttentionCall]) -> str:
    """The model's own forward keeps no graph around some calls, and the target rests on no other."""
    modules = ", ".join(dict.fromkeys(c.module or "the model" for c in calls))
    return (
        f"the model's own forward cuts its attention out of the graph ({modules}): it runs under torch.no_grad() or "
        "torch.inference_mode(), or is detached, as a frozen backbone may be; take that away for the run. Methods that need no "
        "gradient (raw_attention, rollout, alpha_avg, alpha_max) run as it is where readout= names the row that is read"
    )


def _no_attention(model: nn.Module) -> str:
    kernel = str(getattr(getattr(model, "config", None), "_attn_implementation", "") or "")
    if "flash" in kernel or "flex" in kernel or "paged" in kernel:
        return (
            f"no attention call was seen: the model's attention runs in a kernel out of sight ({kernel}); "
            'call model.set_attn_implementation("sdpa") first'
        )
    return (
        f"no attention call was seen in {type(model).__name__}: is it a Transformer, did its attention run, and does it weigh "
        "pairs of tokens (linear and factorised attention have no such map)?"
    )


def _batches(inputs: Inputs, streams: Sequence[Stream], used: Tensor) -> set[int]:
    """Numbers of samples: lengths of the inputs that calls read, along their samples' axis."""
    read = {s.name for s in streams if not s.packed and bool(used[s.rows].any())}
    return {inputs.batch(name) for name in read if name in inputs.values}


def _in_use(recording: Recording, used: Tensor) -> list[Stream]:
    """Streams whose rows (row,) are used, or that a merged stream in use was made of."""
    for merge in reversed(recording.merges):
        if bool(used[merge.rows].any()):
            used[merge.sources.flatten()] = True
    return [s for s in recording.streams if bool(used[s.rows].any())]
