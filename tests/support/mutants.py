"""Mutants: one rule of provenance turned off, or off by one, each; and tiny models whose maps it spoils.

`MUTANTS[name]` says what is wrong and what finds it: "verify", where the claim row -> tokens is wrong or a call's own numbers
are; "twin", where that is right and the map is wrong nevertheless (shares of merged tokens, the order of calls, the read-out).
test_mutants.py runs them; `python docs/mutants.py` writes the table of docs/verify.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from regard.recording import recorder
from regard.recording.calls import attention as attention_module
from regard.recording.calls import call as call_module
from regard.recording.calls import rebuild as rebuilding
from regard.recording.calls.layout import Layout
from regard.recording.relevance import propagation as walk
from regard.recording.relevance import readout
from regard.recording.relevance.call_graph import CallGraph
from regard.recording.tokens import operations
from regard.recording.tokens.tags import Tag
from regard.recording.tokens.tracker import Trail
from support.mutant_models import PARTS

MAKER = importlib.import_module("regard.recording.record")  # whose name in the package is its function

# -- mutants ----------------------------------------------------------------------------------------------------------

Rule = Callable[..., Any]

Swap = tuple[Any, Any, Any]
"""An object or dict, the name of what is exchanged in it, and what takes its place."""


@dataclass(frozen=True)
class Mutant:
    """What is wrong, in words; what finds it; on which models (of `MOVES` and above; for a twin also families of sweep.py)."""

    wrong: str
    found: str
    on: tuple[str, ...]
    swaps: Callable[[], Sequence[Swap]]


MUTANTS: dict[str, Mutant] = {}


def mutant(name: str, wrong: str, *on: str, found: str = "verify") -> Callable[[Callable[[], Any]], None]:
    def add(swaps: Callable[[], Any]) -> None:
        assert name not in MUTANTS, name
        MUTANTS[name] = Mutant(wrong, found, on, swaps)

    return add


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Regard with one rule wrong. Raises NotReached where nothing of what was exchanged was ever called."""
    done: list[Swap] = []
    reached: list[str] = []
    try:
        for where, what, new in MUTANTS[name].swaps():
            old = where[what] if isinstance(where, dict) else getattr(where, what)
            done.append((where, what, old))
            _put(where, what, _noted(new, what, reached))
        yield
    finally:
        for swap in reversed(done):
            _put(*swap)
    if not reached:
        raise NotReached(name)


class NotReached(Exception):
    """A mutant of code that does not run: a test of it could not fail."""


def _noted(new: Rule, what: str, reached: list[str]) -> Rule:
    def noted(*args: Any, **kwargs: Any) -> Any:
        reached.append(what)
        return new(*args, **kwargs)

    return noted


def _put(where: Any, what: Any, new: Any) -> None:
    if isinstance(where, dict):
        where[what] = new
    else:
        setattr(where, what, new)


def rule(name: str, change: Callable[[Rule], Rule]) -> Swap:
    return operations.RULES, name, change(operations.RULES[name])


def unmoved(old: Rule) -> Rule:
    """The rows stay where they were."""
    return lambda trail, name, args, kwargs, out: [trail.parameter_tag(args[0])]


def off_by_one(axis: int = 1) -> Callable[[Rule], Rule]:
    """Each row is said to be its neighbour."""

    def change(old: Rule) -> Rule:
        def new(trail: Trail, name: str, args: Any, kwargs: Any, out: Any) -> Any:
            tags = old(trail, name, args, kwargs, out)
            return [t if t is None or t.raw or t.lost or t.ids.ndim <= axis else shifted(t, axis) for t in tags]

        return new

    return change


def shifted(tag: Tag, axis: int) -> Tag:
    return tag.moved(lambda i: i.roll(1, axis))


def backwards(old: Rule) -> Rule:
    """The parts in the wrong order."""

    def new(trail: Trail, name: str, args: Any, kwargs: Any, out: Any) -> Any:
        if isinstance(args[0], list | tuple):
            return old(trail, name, (list(args[0])[::-1], *args[1:]), kwargs, out)
        return list(old(trail, name, args, kwargs, out))[::-1]

    return new


def as_reshape(old: Rule) -> Rule:
    """The rows are numbered anew in the order in which they stood."""
    return lambda trail, name, args, kwargs, out: operations.RULES["reshape"](trail, "reshape", args, kwargs, out)


def base_alone(old: Rule) -> Rule:
    """What is written into a tensor is not followed."""
    return lambda trail, name, args, kwargs, out: [trail.tag(args[0]) or trail.tag(args[-1])]


for name in ("flip", "roll", "index_select", "gather", "take_along_dim"):
    mutant(f"{name} ignored", f"the rows of `{name}` stay where they were", name)(
        lambda name=name: [rule(name, unmoved)]
    )

for name, on in {"roll": "roll", "gather": "gather", "__getitem__": "index", "masked_scatter": "masked_scatter",
                 "scatter": "scatter", "index_copy": "index_copy", "pad": "pad", "linear": "index", "where": "where",
                 "chunk": "index"}.items():  # fmt: skip
    mutant(f"{name} off by one", f"each row of `{name}` is its neighbour", on)(
        lambda name=name: [rule(name, off_by_one())]
    )

for name in ("cat", "stack", "split", "chunk", "unbind"):
    mutant(f"{name} backwards", f"the parts of `{name}` in the wrong order", name)(
        lambda name=name: [rule(name, backwards)]
    )

for name in ("transpose", "permute", "movedim"):
    mutant(f"{name} as reshape", f"`{name}` numbers its rows anew (grids, windows, heads)", name)(
        lambda name=name: [rule(name, as_reshape)]
    )

mutant("masked_scatter ignored", "pictures' features put among words stay the words", "masked_scatter")(
    lambda: [rule("masked_scatter", base_alone)]
)

mutant("where takes one side", "`where` is its first operand", "where")(
    lambda: [rule("where", lambda old: lambda t, n, args, k, out: [t.tag(args[1])])]
)

mutant("setitem ignored", "`x[i] = y` is not followed", "setitem")(
    lambda: [(recorder, "set_item", lambda trail, args: trail.put(args[0], trail.tag(args[2])))]
)

mutant("repeat_interleave as repeat", "each row's copies stand in the wrong places", "repeat_interleave")(
    lambda: [rule("repeat_interleave", lambda old: lambda t, n, args, k, out: operations.RULES["repeat"](
        t, "repeat", (args[0], 1, 2, 1), {}, out))]
)  # fmt: skip

mutant("repeat as repeat_interleave", "the same, the other way round", "repeat")(
    lambda: [rule("repeat", lambda old: lambda t, n, args, k, out: operations.RULES["repeat_interleave"](
        t, "repeat_interleave", (args[0], 2, 1), {}, out))]
)  # fmt: skip


def _no_merge(old: Rule) -> Rule:
    return lambda self, tag, sources: Tag(sources[..., :1], tag.source, tag.seen)


def _wrong_sources(old: Rule) -> Rule:
    return lambda self, tag, sources: old(self, tag, sources.roll(1, 1))


mutant("merge off", "a merged row is the first of its tokens alone", "merging")(
    lambda: [(Trail, "merged", _no_merge(Trail.merged))]
)

mutant("merge off by one", "a merged row is said to be made of its neighbour's tokens", "merging")(
    lambda: [(Trail, "merged", _wrong_sources(Trail.merged))]
)


def _born_shifted(self: Trail, *args: Any, old: Any = Trail.born) -> Tag:
    made: Tag = old(self, *args)
    return shifted(made, made.ids.ndim - 1 if made.ids.shape[-1] > 1 else made.ids.ndim - 2)


mutant("birth off by one", "patches are born one place beside", "patches")(lambda: [(Trail, "born", _born_shifted)])


def _other_samples(self: Trail, tensor: Tensor, source: Any, axis: Any, old: Any = Trail.enter) -> None:
    old(self, tensor, source, axis)
    swapped = self.entered[source.name].moved(lambda i: i.flip(0))
    self.put(tensor, swapped)
    self.entered[source.name] = swapped


mutant("samples swapped", "the rows of one sample are another's", "flip")(lambda: [(Trail, "enter", _other_samples)])


def _swapped_sides(old: Rule) -> Rule:
    def new(self: Any, tags: Any, lead: Any, values: Any, **fields: Any) -> Any:
        return old(self, [tags[1], tags[0], tags[2]], lead, values, **fields)

    return new


mutant("queries as keys", "whose rows the queries are and whose the keys are is exchanged", "cross")(
    lambda: [(recorder.Recorder, "_called", _swapped_sides(recorder.Recorder._called))]
)


def _swapped_kv(old: Rule) -> Rule:
    def new(self: Any, tags: Any, lead: Any, values: Any, **fields: Any) -> Any:
        if fields.get("k") is not None:
            fields |= {"k": fields["v"], "v": fields["k"]}
        return old(self, tags, lead, values, **fields)

    return new


mutant("keys as values", "k is kept as v, and v as k", "cross")(
    lambda: [(recorder.Recorder, "_called", _swapped_kv(recorder.Recorder._called))]
)


def _heads_first() -> list[Swap]:
    """Where there are as many heads as samples, (sample, head) is read as (head, sample): all but the ids."""
    call, pairs, back = Layout.__call__, Layout.pairs, Layout.back

    def wrong_pairs(self: Any, t: Tensor, part: slice) -> Tensor:
        whole = pairs(self, t, slice(0, self.groups * self.heads)).unflatten(0, (self.groups, self.heads))
        return whole.transpose(0, 1).flatten(0, 1)[part]

    return [
        (Layout, "of_groups", lambda self, ids: call(self, ids[..., None])[:, 0, :, 0].contiguous()),
        (Layout, "__call__", lambda self, t: call(self, t).transpose(0, 1)),
        (Layout, "back", lambda self, t: back(self, t.transpose(0, 1))),
        (Layout, "pairs", wrong_pairs),
    ]


mutant("heads laid out wrong", "heads are read as samples, and samples as heads", "cross", "cross written")(
    _heads_first
)


def _v_turned(self: Any, t: Tensor, old: Any = call_module.AttentionCall.repeated) -> Tensor:
    return old(self, t).transpose(0, 1)


mutant("heads of v laid out wrong", "the same, of values alone", "cross", "written")(
    lambda: [(call_module.AttentionCall, "repeated", _v_turned)]
)


def _tiled(self: Any, t: Tensor) -> Tensor:
    if t.shape[-3] not in (1, self.layout.lead[-1]):
        t = t.repeat(1, self.layout.lead[-1] // t.shape[-3], 1, 1)
    return self.layout(t)


mutant("grouped heads wrong", "grouped heads share the values of the wrong group", "grouped")(
    lambda: [(call_module.AttentionCall, "repeated", _tiled)]
)

mutant("scale off", "scores are rebuilt without the call's scale", "causal")(
    lambda: [(recorder, "AttentionCall", lambda **f: call_module.AttentionCall(**(f | {"scale": 1.0})))]
)

mutant("causal mask off", "rows are rebuilt as if they saw what comes later", "causal")(
    lambda: [(recorder, "AttentionCall", lambda **f: call_module.AttentionCall(**(f | {"causal": False})))]
)

mutant("mask off", "rows are rebuilt as if nothing were masked", "masked")(
    lambda: [(rebuilding, "add_mask", lambda scores, mask: None)]
)


def _columns_wrong(old: Rule) -> Rule:
    def new(trail: Trail, p: Any) -> Any:
        tags, fields = old(trail, p)
        return [*tags[:2], shifted(tags[2], tags[2].ids.ndim - 2)], fields

    return new


mutant("columns of weights off by one", "the columns of an A that the model made are the values beside", "written")(
    lambda: [(recorder, "weights_and_values", _columns_wrong(recorder.weights_and_values))]
)


def _rows_wrong(old: Rule) -> Rule:
    def new(trail: Trail, p: Any) -> Any:
        tags, fields = old(trail, p)
        return [shifted(tags[0], tags[0].ids.ndim - 2), *tags[1:]], fields

    return new


mutant("rows of weights off by one", "the rows of an A that the model made are the queries beside", "written")(
    lambda: [(recorder, "weights_and_values", _rows_wrong(recorder.weights_and_values))]
)


def _transposed(old: Rule) -> Rule:
    def new(trail: Trail, p: Any) -> Any:
        tags, fields = old(trail, p)
        return tags, fields | {"A": fields["A"].mT}

    return new


mutant("A transposed", "an A that the model made is kept with rows and columns exchanged", "written")(
    lambda: [(recorder, "weights_and_values", _transposed(recorder.weights_and_values))]
)

# -- attentions of several calls --------------------------------------------------------------------------------------


def _listed(change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Callable[[], list[Swap]]:
    """Other calls are listed as those of an attention."""

    def new(calls: Any, trail: Any, old: Any = attention_module.attentions) -> Any:
        calls, found = old(calls, trail)
        return calls, [replace(a, calls=change(a.calls)) for a in found]

    return lambda: [(MAKER, "attentions", new)]


mutant("the last call of a loop is left out", "an attention is said to be of one call fewer", "heads one by one")(
    _listed(lambda calls: calls[:-1])
)

mutant("the last call of a loop counts twice", "an attention is said to be of one call more", "heads one by one")(
    _listed(lambda calls: calls + calls[-1:])
)


def _kept_twice(old: Rule) -> Rule:
    def new(self: Any, *args: Any, **fields: Any) -> Any:
        old(self, *args, **fields)
        return old(self, *args, **fields)

    return new


mutant("a call is kept twice", "each product of weights and values is two calls", "heads one by one", "written")(
    lambda: [(recorder.Recorder, "_called", _kept_twice(recorder.Recorder._called))]
)


def _every_other(old: Rule) -> Rule:
    def new(self: Any, tags: Any, lead: Any, values: Any, **fields: Any) -> Any:
        self.missed = not getattr(self, "missed", True)
        if not self.missed:
            return old(self, tags, lead, values, **fields)
        self.trail.put(fields["output"], replace(tags[0], ids=tags[0].ids[..., :1].expand(fields["output"].shape)))
        return fields["output"]

    return new


mutant("every other call of a loop is missed", "its output is taken for its queries", "heads one by one")(
    lambda: [(recorder.Recorder, "_called", _every_other(recorder.Recorder._called))]
)

mutant("heads joined are attentions of their own", "nothing is noted of outputs that are joined", "heads one by one")(
    lambda: [(Trail, "joined", lambda self, how, tags: None)]
)

mutant(
    "shares of heads off", "each call of an attention counts as if all heads were its own", "heads one by one", "uneven"
)(lambda: [(attention_module, "_shares", lambda calls, groups, sums: [])])

mutant("shares of rows off", "rows of which some heads look count as if all heads did", "uneven")(
    lambda: [(call_module, "_share_of_rows", lambda pull, tile, share: None)]
)

# -- what only a twin can find ----------------------------------------------------------------------------------------


def twin(name: str, wrong: str, *on: str) -> Callable[[Callable[[], Any]], None]:
    return mutant(name, wrong, *on, found="twin")


def _shares(merge: Any, part: Any, old: Any = walk.unmerged) -> Any:
    kept = old(merge, part)
    if part.seen >> merge.event & 1:
        more = part.r[..., merge.rows] / merge.sources.shape[1]
        kept[-1] = kept[-1]._replace(r=kept[-1].r.index_add(-1, merge.sources[:, 0], more))
    return kept


twin("shares of merged tokens", "the first of m merged tokens gets 2/m", "swin")(lambda: [(walk, "unmerged", _shares)])


def _unseen(old: Rule) -> Rule:
    def new(trail: Trail, name: str, args: Any, kwargs: Any, out: Any) -> Any:
        tags = old(trail, name, args, kwargs, out)
        before = trail.tag(args[0])
        return [t if t is None or before is None else Tag(**(t.__dict__ | {"seen": before.seen})) for t in tags]

    return new


twin("seen off in sums", "a residual connection forgets what its branch has absorbed", "bert", "t5")(
    lambda: [rule(n, _unseen) for n in ("add", "__add__", "__radd__")]
)

twin("seen off in linear layers", "rows forget what they have absorbed as they go through a linear layer", "bert")(
    lambda: [rule("linear", lambda old: lambda *a: [t and Tag(**(t.__dict__ | {"seen": 0})) for t in old(*a)])]
)


def _keys_unseen(old: Rule) -> Rule:
    return lambda self, tags, *a, **f: old(self, [tags[0], *(t and Tag(**(t.__dict__ | {"seen": 0})) for t in tags[1:])],
                                           *a, **f)  # fmt: skip


twin("seen off by a call", "calls forget what their keys had absorbed", "vit")(
    lambda: [(recorder.Recorder, "_called", _keys_unseen(recorder.Recorder._called))]
)


def _read_beside(graph: Any, gradients: Any, old: Any = readout.found) -> Any:
    return {i: torch.cat([r[:, :1], r[:, 1:].roll(1, 1)], 1) for i, r in old(graph, gradients).items()}


twin("read-out off by one", "the target is said to read the row beside", "vit", "gpt2")(
    lambda: [(readout, "found", _read_beside)]
)


def _evenly(graph: Any, gradients: Any, old: Any = readout.found) -> Any:
    found = old(graph, gradients)
    return {i: (r > 0) / (r > 0).sum(1, keepdim=True).clamp(min=1) for i, r in found.items()}


twin("read-out even", "all rows that the target reads count alike", "swin")(lambda: [(readout, "found", _evenly)])


def _all_final(self: Any, of: Any = None, old: Any = CallGraph.final_attentions) -> Any:
    return [a.index for a in self.attentions] if of is None else [*of]


twin("every attention is final", "rows of earlier attentions are read out as well", "bert")(
    lambda: [(CallGraph, "final_attentions", _all_final)]
)


def _ids_off(old: Rule) -> Rule:
    def new(trail: Trail, name: str, args: Any, kwargs: Any, out: Any) -> Any:
        tags = old(trail, name, args, kwargs, out)
        ids = trail.tag(args[0] if args else kwargs["input"])
        return [t if ids is None or t is None or t.source.name != "input_ids" else shifted(t, 1) for t in tags]

    return new


twin("word embeddings off by one", "each embedding is the word beside (no gradient comes to a word's number)", "gpt2")(
    lambda: [rule("embedding", _ids_off)]
)


def _means_of_means(calls: Any, groups: Any, sums: Any) -> Any:
    return [(i, 1 / len(g)) for g in groups if len(g) > 1 for i in g]


twin("mean of means", "calls of one attention count alike, however many heads they have", "three heads and one")(
    lambda: [(attention_module, "_shares", _means_of_means)]
)


def _added(self: Trail, how: str, tags: Any, old: Any = Trail.joined) -> None:
    old(self, "added", tags)


twin("heads side by side as if added", "an attention's E is the sum of its heads', not their mean", "heads one by one")(
    lambda: [(Trail, "joined", _added)]
)

KINDS = (*PARTS, "cross", "cross written", "grouped", "patches", "written", "causal", "masked")
"""Models that are no moves."""
