"""Watch one run of any PyTorch model at the level of tensor operations; leave no trace.

A `TorchFunctionMode` sees every operation of the run in this thread and no other. Attention is
`F.scaled_dot_product_attention`, or a product whose left operand is a softmax of queries times keys. Forward hooks, put on
for the run and taken off after it (also after an error), tell which module is at work and let an edit change a block.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from regard.errors import ModelError
from regard.recording.calls import AttentionCall, Layout
from regard.recording.contractions import PRODUCTS, Product, read_product
from regard.recording.edits import Edit
from regard.recording.elementwise import PARAMETERS, nowhere, tensors_in
from regard.recording.entry import is_mask, keywords, ranks, uncompiled
from regard.recording.movements import set_item
from regard.recording.operations import follow, name_of
from regard.recording.said import Place, Said, sayings
from regard.recording.tokens import STRIDE, Source, Tag, Trail, constant

# F.multi_head_attention_forward hands itself to the mode as a whole. This is torch's own code of that function, running with
# a copy of its globals in which that hand-over is switched off, so that the mode sees the operations inside.
_mha_inside = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    {**F.multi_head_attention_forward.__globals__, "has_torch_function": lambda _: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)


@dataclass
class Block:
    """One visit of an element of a ModuleList that holds attention calls."""

    module: str
    visit: int
    calls: list[int]


@dataclass
class Frames:
    """The modules at work in the recorded thread, innermost last, as dotted paths."""

    names: dict[int, str]
    listed: set[str]
    owner: int = field(default_factory=threading.get_ident)
    stack: list[str] = field(default_factory=list)
    visits: dict[str, int] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)

    @property
    def mine(self) -> bool:
        """Whether the hook was called by the recorded thread (another thread may run the same model)."""
        return threading.get_ident() == self.owner

    def block(self) -> str:
        """The innermost ModuleList element at work, with its visit, or ""."""
        name = next((n for n in reversed(self.stack) if n in self.listed), "")
        return f"{name}:{self.visits[name] - 1}" if name else ""


class Recorder(TorchFunctionMode):
    """The mode: follows tokens, and collects attention calls."""

    def __init__(self, trail: Trail, frames: Frames, edits: Sequence[Edit] = (), said: Said | None = None) -> None:
        super().__init__()
        self.said = said or Said([])
        self.trail = trail
        self.frames = frames
        self.edits = edits
        self.calls: list[AttentionCall] = []
        self.leaves: dict[str, Tensor] = {}
        self.embedded: dict[str, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return _mha_inside(*args, **kwargs)
        name = name_of(func)
        if name == "scaled_dot_product_attention":
            return self._fused(func, args, kwargs)
        if name == "__setitem__":
            out = func(*args, **kwargs)
            set_item(self.trail, args)
            return out
        out = func(*args, **kwargs)
        if name in PRODUCTS and (p := self._attention_product(name, args, kwargs)) is not None:
            return self._explicit(p, out)
        if name in PRODUCTS and (why := self._lost_product(args)):
            self.calls.append(self._lost_call(why, out))
        follow(self.trail, func, args, kwargs, out)
        if name == "embedding":
            out = self._embedded(out, args, kwargs)
        return out

    # -- word embeddings --------------------------------------------------------------------------------------------

    def _embedded(self, out: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        """The word embeddings of an id input: a place to read gradients at, and to edit."""
        index = self.trail.tag(args[0] if args else kwargs["input"])
        tag = self.trail.tag(out)
        if index is None or index.computed or tag is None or tag.lost:
            return out
        visits = sum(k.partition("#")[0] == tag.source.name for k in self.leaves)
        name = f"{tag.source.name}#{visits}" if visits else tag.source.name  # BART's decoder embeds the same ids again
        self.embedded[name] = tag.ids[..., 0]
        return self._leaf(name, out, tag)

    def _leaf(self, name: str, value: Tensor, tag: Tag) -> Tensor:
        """A place where gradients are read and edits act; `name#1`, ... where a stream enters more than once."""
        stream = name.partition("#")[0]
        for edit in self.edits:
            new = edit.entered(stream, value)
            value = value if new is None else new.to(value.dtype)
        value = differentiable(value)
        self.leaves[name] = value
        self.trail.put(value, tag)
        return value

    # -- attention --------------------------------------------------------------------------------------------------

    def _fused(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, args, strict=False)) | kwargs
        q, k, v = given["query"], given["key"], given["value"]
        self._free_mask(given)
        out: Tensor = func(**given)
        tags = [self.trail.tag(t) for t in (q, k, v)]
        scale = given.get("scale")
        return self._called(
            tags,
            tuple(out.shape[:-2]),
            output=out,
            kernel="sdpa",
            q=q,
            k=k,
            v=v,
            mask=given.get("attn_mask"),
            causal=bool(given.get("is_causal", False)),
            scale=q.shape[-1] ** -0.5 if scale is None else float(scale),
        )

    def _free_mask(self, given: dict[str, Any]) -> None:
        """A bias that comes from parameters alone (T5's positions) asks for no gradient here; asking would unfuse the call."""
        mask = given.get("attn_mask")
        tag = self.trail.tag(mask)
        if isinstance(mask, Tensor) and mask.requires_grad and (tag is None or tag.source.rank >= 10_000):
            given["attn_mask"] = mask.detach()

    def _attention_product(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Product | None:
        """The product probabilities × values, with the probabilities on the left, or None."""
        p = read_product(name, args, kwargs)
        if p is None:
            return None
        if not self._is_probability(p.a):
            p = p.swapped()
        tag = self.trail.tag(p.a)
        if tag is None or not tag.probs or len(p.summed) != 1:
            return None
        free = [[c for c in own if c in p.lo and c not in other] for own, other in ((p.la, p.lb), (p.lb, p.la))]
        if len(free[0]) != 1 or (tag.lost and len(free[1]) != 1):
            return None
        if tag.keys is None:
            return p if tag.lost else None
        axis = p.la.index(p.summed)
        return p if not constant(tag.keys.ids, axis) or p.a.shape[axis] == 1 else None

    def _lost_product(self, args: Sequence[Any]) -> str:
        """Where probabilities whose trail is lost meet values: an attention call that cannot be read. The reason, or ""."""
        tags = [self.trail.tag(t) for t in tensors_in(args) if t.ndim >= 3]
        return next((t.lost for t in tags if t is not None and t.lost and t.probs), "")

    def _lost_call(self, why: str, out: Tensor) -> AttentionCall:
        nobody, module = torch.zeros(1, 0, dtype=torch.int64), self._module()
        self.said.places[len(self.calls)] = Place(len(self.calls), module, tuple(out.shape[:-2]), out.shape[-2], 0)
        return AttentionCall(
            index=len(self.calls),
            event=self.trail.next_event(call=True),
            module=module,
            kernel="softmax",
            layout=_flat(tuple(out.shape[:-2])),
            queries=nobody,
            keys=nobody,
            seen=0,
            output=out,
            v=out,
            lost=f"the trail of the scores is lost at `{why}`",
            block=self.frames.block(),
        )

    def _module(self) -> str:
        """The module at work."""
        return self.frames.stack[-1] if self.frames.stack else ""

    def _is_probability(self, t: Tensor) -> bool:
        tag = self.trail.tag(t)
        return tag is not None and tag.probs

    def _explicit(self, p: Product, out: Tensor) -> Tensor:
        key = p.summed
        (row,) = (c for c in p.la if c in p.lo and c not in p.lb)
        (width,) = (c for c in p.lb if c in p.lo and c not in p.la)
        lead = [c for c in p.lo if c not in (row, width)]
        tag = self.trail.tag(p.a)
        assert tag is not None
        columns = tag.keys or tag  # a lost trail knows of no columns
        A = _axes(p.a, p.la, [*lead, row, key])
        v = _axes(p.b, p.lb, [*lead, key, width])
        rows, keys = (_axes(t.ids, p.la, [*lead, row, key]) for t in (tag, columns))
        axes = tuple(p.lo.index(c) for c in [*lead, row, width])
        q_tag = Tag(rows[..., 0][..., None], tag.source, tag.seen, lost=tag.lost)
        k_tag = Tag(keys[..., 0, :][..., None], columns.source, columns.seen, lost=columns.lost)
        tags = [q_tag, k_tag, self.trail.tag(p.b)]
        shape = tuple(out.permute(axes).shape[:-2])
        return self._called(tags, shape, output=out, kernel="softmax", A=A, v=v, axes=axes)

    def _called(self, tags: Sequence[Tag | None], lead: tuple[int, ...], **fields: Any) -> Tensor:
        """Make the call, let the edits change its output, and tag that output with the query's rows."""
        cut = not fields["output"].requires_grad
        fields["output"] = out = differentiable(fields["output"])
        q_tag, k_tag, v_tag = (t if t is None else self.trail.settled(t) for t in tags)
        read = [t.source.rank for t in (k_tag, v_tag) if t is not None]
        place = Place(len(self.calls), self._module(), lead, *_size(fields))
        q_tag, k_tag = self._said(place, q_tag, k_tag, v_tag if fields["kernel"] == "sdpa" else None)
        where = self._names_lost(q_tag, k_tag)
        queries, keys = (self._ids(t, lead) for t in (q_tag, k_tag))
        if not where and queries is not None and keys is not None:
            layout = Layout.of(queries, keys)
            queries, keys = (_grouped(i, layout) for i in (queries, keys))
            queries, keys = _of_their_samples(queries, keys)
        else:
            layout = _flat(lead)
            queries = keys = torch.zeros(1, 0, dtype=torch.int64)
        event = self.trail.next_event(call=True)
        seen = (k_tag.seen if k_tag else 0) | (v_tag.seen if v_tag else 0)
        call = AttentionCall(
            index=place.index,
            event=event,
            module=place.module,
            layout=layout,
            queries=queries,
            keys=keys,
            seen=seen,
            lost=where,
            block=self.frames.block(),
            detached=cut and any(rank < PARAMETERS for rank in read),
            **fields,
        )
        for edit in self.edits:
            new = edit.call(call)
            if new is not None:
                out = differentiable(new.to(out.dtype))
                call = AttentionCall(**(call.__dict__ | {"output": out}))
        self.calls.append(call)
        if q_tag is not None and queries.shape[1]:
            self.trail.put(out, Tag(self._output_ids(call, q_tag), q_tag.source, seen=1 << event))
        elif where and q_tag is not None:
            self.trail.put(out, nowhere(q_tag, where, out))
        return out

    def _said(self, place: Place, q: Tag | None, k: Tag | None, v: Tag | None) -> list[Tag | None]:
        """Queries and keys as the user says that they are."""
        if not self.said.sayings:
            self.said.places[place.index] = place
            return [q, k]
        clear = [None if t is None or not constant(t.ids, -1) else t for t in (q, k, v)]
        return self.said.corrected(self.trail, place, (q, k), [self._ids(t, place.lead) for t in clear])

    def _names_lost(self, q: Tag | None, k: Tag | None) -> str:
        for side, tag in (("keys", k), ("queries", q)):
            if tag is None or tag.lost or not constant(tag.ids, -1):
                self.said.lost[len(self.calls)] = (side, tag.source.name if tag is not None else "")
            if tag is None:
                return f"the {side} come from no input or parameter that was followed"
            if tag.lost:
                return f"the trail of the {side} is lost at `{tag.lost}`"
            if not constant(tag.ids, -1):
                return f"the {side} mix several tokens along their width"
        return ""

    def _ids(self, tag: Tag | None, lead: tuple[int, ...]) -> Tensor | None:
        """Ids (lead..., token) of queries or keys; grouped heads share the ids of their group."""
        if tag is None or tag.lost:
            return None
        ids = tag.ids[..., 0]
        if ids.ndim > 1 and len(lead) and ids.shape[-2] not in (1, lead[-1]):
            ids = ids.repeat_interleave(lead[-1] // ids.shape[-2], -2) if not constant(ids, -2) else ids[..., :1, :]
        return ids.expand(*lead, ids.shape[-1])

    def _output_ids(self, call: AttentionCall, tag: Tag) -> Tensor:
        """The query's ids in the output's own axes and shape."""
        ids = tag.ids[..., 0].expand(*call.layout.lead, tag.ids.shape[-2])[..., None]
        if call.axes is not None:
            ids = ids.permute([call.axes.index(d) for d in range(ids.ndim)])
            return ids.expand(call.output.shape)
        return ids.expand(call.output.shape)


def _size(fields: Mapping[str, Any]) -> tuple[int, int]:
    """Query rows and keys of a call."""
    if "A" in fields:
        return fields["A"].shape[-2], fields["A"].shape[-1]
    return fields["q"].shape[-2], fields["k"].shape[-2]


def _flat(lead: tuple[int, ...]) -> Layout:
    """A layout for a call whose tokens are not known."""
    return Layout(lead, tuple(range(len(lead))), 1, max(1, torch.Size(lead).numel()))


def _grouped(ids: Tensor, layout: Layout) -> Tensor:
    """(lead..., token) -> (group, token): one row of ids for each group."""
    return ids.permute(*layout.order, -1).reshape(layout.groups, layout.heads, -1)[:, 0].contiguous()


def _of_their_samples(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a parameter that no operation has handed to samples belong to the sample of the rows beside them."""
    sample = torch.cat([queries, keys], 1).amax(1, keepdim=True) // STRIDE * STRIDE
    first, second = (torch.where((i > 0) & (i < STRIDE), i + sample, i) for i in (queries, keys))
    return first, second


def _axes(t: Tensor, letters: str, order: Sequence[str]) -> Tensor:
    """Permute axes named by letters into an order; missing ones get length 1."""
    t = t.permute([letters.index(c) for c in order if c in letters])
    for i, c in enumerate(order):
        if c not in letters:
            t = t.unsqueeze(i)
    return t


def differentiable(t: Tensor) -> Tensor:
    """The tensor, part of a graph: gradients at it can be asked for. Frozen parameters make this needed."""
    if torch.is_grad_enabled() and t.is_floating_point() and not t.requires_grad:
        return t.requires_grad_() if t.is_leaf and not t.is_inference() else t.detach().requires_grad_()
    return t


def shortest_names(model: nn.Module) -> dict[int, str]:
    """Parameter id -> the shortest dotted suffix of its name that no other parameter shares (`.weight` left out)."""
    full = [(n.removesuffix(".weight"), id(p)) for n, p in model.named_parameters(remove_duplicate=False)]
    owners: dict[str, set[int]] = {}
    for name, key in full:
        for suffix in _suffixes(name):
            owners.setdefault(suffix, set()).add(key)
    names: dict[int, str] = {}
    for name, key in full:
        names.setdefault(key, next((s for s in _suffixes(name) if len(owners[s]) == 1), name))
    return names


def _suffixes(name: str) -> list[str]:
    """Dotted suffixes, shortest first."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in reversed(range(len(parts)))]


@contextmanager
def watched(model: nn.Module, frames: Frames, edits: Sequence[Edit]) -> Iterator[None]:
    """Hooks on every module for the length of a run: they keep the stack of modules, and apply edits of blocks."""
    handles = []

    def enter(module: nn.Module, args: Any) -> None:
        if frames.mine:
            name = frames.names[id(module)]
            frames.stack.append(name)
            frames.visits[name] = frames.visits.get(name, 0) + 1

    def leave(module: nn.Module, args: Any, output: Any) -> Any:
        if not frames.mine or not frames.stack:
            return None
        name = frames.stack.pop()
        for edit in edits:
            new = edit.block(name, frames.visits[name] - 1, output)
            output, changed = (output, None) if new is None else (new, new)
            if changed is not None:
                return changed
        return None

    try:
        for module in model.modules():
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
        yield
    finally:
        for handle in handles:
            handle.remove()


def list_elements(model: nn.Module) -> set[str]:
    """Dotted paths of the elements of every ModuleList (and Sequential: blocks are kept in those, too)."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        for name, _ in module.named_children()
    }


@dataclass
class Run:
    """What one watched run left: its output, calls, trail and the tensors at which gradients can be read."""

    output: Any
    calls: list[AttentionCall]
    trail: Trail
    leaves: dict[str, Tensor]
    embedded: dict[str, Tensor]
    inputs: dict[str, Any]
    blocks: list[Block]
    said: Said


def run(model: nn.Module, inputs: Any, edits: Sequence[Edit] = (), streams: Any = None) -> Run:
    """One forward pass, watched, with edits. Gradients are recorded if the caller's grad mode says so.

    `streams` is what the user says of the tokens (said.py).
    """
    given, by_keyword = keywords(model, inputs)
    tensors = {k: v for k, v in given.items() if isinstance(v, Tensor) and v.ndim}
    if not any(not is_mask(k, t) for k, t in tensors.items()):
        raise ModelError(
            f"no tensor among the inputs ({', '.join(given) or 'none given'}) but masks: there is nothing to explain"
        )
    if any(not t.numel() for t in tensors.values()):
        raise ModelError("an input is empty: there is nothing to explain")
    model = uncompiled(model)
    order = ranks(model, list(given))
    trail = Trail(shortest_names(model), {len(t) for k, t in tensors.items() if not is_mask(k, t)})
    names = {id(m): n for n, m in model.named_modules()}
    frames = Frames(names, list_elements(model))
    said = Said(sayings(streams))
    recorder = Recorder(trail, frames, edits, said)
    passed = dict(given)
    for name, t in tensors.items():
        if is_mask(name, t):
            continue
        trail.enter(
            t_in := t.detach().clone(), Source(name, order[name], tuple(t.shape[1:]), not t.is_floating_point())
        )
        if t.is_floating_point():
            t_in = recorder._leaf(name, t_in, trail.entered[name]).clone()
        trail.put(t_in, said.entered(trail, name, trail.entered[name]))
        passed[name] = t_in
    with watched(model, frames, edits), recorder:
        output = model(**passed) if by_keyword else model(*passed.values())
    said.check(trail)
    return Run(output, recorder.calls, trail, recorder.leaves, recorder.embedded, given, _blocks(recorder.calls), said)


def _blocks(calls: Sequence[AttentionCall]) -> list[Block]:
    blocks: list[Block] = []
    for call in calls:
        if not call.block:
            continue
        module, visit = call.block.rsplit(":", 1)
        if blocks and (blocks[-1].module, blocks[-1].visit) == (module, int(visit)):
            blocks[-1].calls.append(call.index)
        else:
            blocks.append(Block(module, int(visit), [call.index]))
    return blocks
