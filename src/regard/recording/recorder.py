"""Watch one run of any PyTorch model at the level of tensor operations; leave no trace.

A `TorchFunctionMode` sees every operation of the run in this thread and no other. Attention is
`F.scaled_dot_product_attention`, or a product whose left operand is a softmax of queries times keys. Forward hooks, put on
for the run and taken off after it (also after an error), tell which module is at work and let an edit change a block.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from regard.errors import ModelError
from regard.recording.ambient import Surroundings, as_the_user, our_own
from regard.recording.at_work import at_work
from regard.recording.backward import Backward, RuleSet
from regard.recording.calls import AttentionCall, Layout
from regard.recording.calls.explicit_weights import attention_product, sampled, unreadable, weights_and_values
from regard.recording.calls.kernel import Weights
from regard.recording.calls.residual import Branches
from regard.recording.edits import Edit
from regard.recording.frames import Frames
from regard.recording.graph import descends, node_of
from regard.recording.own_gradients import operation
from regard.recording.pooling import pooled
from regard.recording.tokens import storage, widths
from regard.recording.tokens.contractions import PRODUCTS, Product, read_product
from regard.recording.tokens.elementwise import nowhere, tensors_in
from regard.recording.tokens.folds import Fold
from regard.recording.tokens.memories import heads_together
from regard.recording.tokens.numbers import entering
from regard.recording.tokens.operations import SHAPES, follow, name_of
from regard.recording.tokens.out_of_sight import end_trails
from regard.recording.tokens.overrides import CallPlace, Overrides
from regard.recording.tokens.samples import of_their_samples
from regard.recording.tokens.tags import PARAMETERS, Entry, Lost, Tag, Why, constant, kind_of, stream_of, thin
from regard.recording.tokens.tracker import Trail
from regard.recording.tokens.writes import set_item

# F.multi_head_attention_forward hands itself to the mode as a whole. This is torch's own code of that function, running with
# a copy of its globals in which that hand-over is switched off, so that the mode sees the operations inside.
_mha_inside = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    {**F.multi_head_attention_forward.__globals__, "has_torch_function": lambda _: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)


class Recorder(TorchFunctionMode):
    """The mode: follows tokens, and collects attention calls."""

    def __init__(
        self,
        trail: Trail,
        frames: Frames,
        edits: Sequence[Edit] = (),
        overrides: Overrides | None = None,
        branches: Branches | None = None,
        until: Until | None = None,
        rules: RuleSet | None = None,
    ) -> None:
        super().__init__()
        self.backward = None if rules is None else Backward(rules, self._module, partial(_of_pairs, trail))
        self.branches = branches
        self.overrides = overrides or Overrides([])
        self.elsewhere = not Surroundings.now().plain
        self.trail = trail
        self.frames = frames
        self.edits = [*edits, *(self.backward.edits if self.backward else ())]
        self.calls: list[AttentionCall] = []
        self.leaves: dict[str, Tensor] = {}
        self.embedded: dict[str, Tensor] = {}
        self.placed: dict[str, Tensor] = {}
        self.made = 0
        self.maps: list[tuple[int, Tensor]] = []
        self.until = until
        self.resting = False
        self.depths: list[int] = []
        self.groups: dict[Any, tuple[Layout, Tensor, Tensor, Tensor]] = {}

    def __enter__(self) -> Any:
        self.trail.module = self._module
        at_work.recorders.append(self)
        self.depths.append(torch._C._len_torch_function_stack())
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        """Off the stack of modes, with whatever an interrupt left above it; one may also have come before it was on."""
        at_work.recorders.remove(self)
        depth = self.depths.pop()
        while torch._C._len_torch_function_stack() > depth:
            torch._C._pop_torch_function_stack()
        if not self.depths:
            self.trail.module = (
                str  # a trail that held the recorder would keep the run alive until garbage is collected
            )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if (
            not at_work.recorders or at_work.recorders[-1] is not self
        ):  # another run, in a hook of this one's model, is none of its business
            return func(*args, **kwargs)
        if self.elsewhere:
            with our_own():
                return self._watched(func, args, kwargs)
        return self._watched(func, args, kwargs)

    def _watched(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if self.resting:
            out = self._counted(self._run(func, args, kwargs))
            storage.glance(self.trail, name_of(func), args, kwargs, out)
            return out
        if func is F.multi_head_attention_forward:
            with self, as_the_user():
                return _mha_inside(*args, **kwargs)
        name = name_of(func)
        if name in SHAPES:
            return func(*args, **kwargs)
        if (
            torch._C._functorch.peek_interpreter_stack() is not None
        ):  # in torch.vmap: its graph is read of what it gives
            return self._run(func, args, kwargs)
        end_trails(self.trail, self.leaves, tensors_in([*args, *kwargs.values()] if kwargs else args))
        if name == "scaled_dot_product_attention":
            fused = self._fused(func, args, kwargs)
            self.may_rest()
            return fused
        if name in ("__setitem__", "__set__"):
            return self._set(func, args, kwargs)
        return self._followed(func, name, args, kwargs)

    def _followed(self, func: Callable[..., Any], name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """An operation that is no kernel: run, and either the end of an attention or followed."""
        if name in storage.HANDS_OUT:
            storage.hand_out(self.trail, name, args[0])
        writes = name.endswith("_") or "out" in kwargs
        before = self.trail.tag(kwargs.get("out", args[0] if args else None)) if writes else None
        if self.branches is not None:
            self.branches.before(name, args)
        out = self._counted(self._run(func, args, kwargs))
        if isinstance(out, Tensor) and out.is_nested:
            raise ModelError(
                f"the model makes a nested tensor (`{name}` at {self._module() or 'the model itself'}), whose rows cannot be "
                "followed; pad the samples instead, with a mask"
            )
        if self.edits:
            out = pooled(self.edits, self.trail, name, args, kwargs, out)
        if (attended := self._weighed(name, args, kwargs, out)) is not None:
            return attended
        if why := sampled(self.trail, name, args):
            self.calls.append(self._lost_call(why, out))
        follow(self.trail, func, args, kwargs, out)
        if storage.name_of_kernel(func):
            storage.written_by_kernel(self.trail, func, args)
        elif writes and (into := storage.written_into(name, args, kwargs, out)) is not None:
            storage.written(self.trail, name, into, before)
        if self.edits and name in PRODUCTS:
            self._show_scores(name, args, kwargs, out)
        if self.branches is not None:
            self.branches.after(name, func, args, kwargs, out)
        if name == "embedding":
            return self._embedded(out, args, kwargs)
        enters = self.trail.whole_numbers and entering(self.trail, name, args, out) is not None
        return self._entered(out) if enters else out

    def _weighed(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tensor | None:
        """The output of an attention that the model writes out, where this product is the one with V; else None."""
        if name not in PRODUCTS and not (name == "sum" and args and args[0] in self.trail.weighed):
            return None
        p = attention_product(self.trail, name, args, kwargs)
        if p is not None and self._multiplied_before(p.a, self.trail.tag(p.b)) is not None:
            return self._explicit(p, out)
        if why := unreadable(self.trail, p, args):
            self.calls.append(self._lost_call(why, out))
            return None
        if p is None:
            return None
        self.trail.retract(self.trail.told.get(args[0]) or () if name == "sum" else ())
        made = self._explicit(p, out)
        self.may_rest()
        return made

    def _set(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """`x[index] = value`, and `x.data = value`."""
        before, name = self.trail.tag(args[0]), name_of(func)
        out = self._run(func, args, kwargs)
        if name == "__setitem__":
            set_item(self.trail, args)
            storage.written(self.trail, name, args[0], before)
        elif getattr(func.__self__, "__name__", "") == "data":  # type: ignore[attr-defined]
            storage.replaced(self.trail, *args)
        return out

    def _counted(self, out: Any) -> Any:
        """What an operation gave, its bytes counted."""
        if isinstance(out, Tensor) and out._base is None:
            self.made += out.numel() * out.element_size()
        return out

    def may_rest(self) -> None:
        """After a place where a stream enters, or a call: whether all that was to be seen has been seen."""
        self.resting = self.resting or (self.until is not None and self.until(self))

    def _run(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The operation itself, as the model runs it; in a block that is skipped, its costly ones give zeros."""
        if self.frames.skipped and (zeros := _zeros_instead(func, args, kwargs)) is not None:
            return zeros
        run = operation if self.backward is None else self.backward
        if self.elsewhere:
            with as_the_user():
                return run(func, args, kwargs)
        return run(func, args, kwargs)

    def _show_scores(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> None:
        """Edits are shown what the model's own scores are made of."""
        made, p = self.trail.tag(out), read_product(name, args, kwargs)
        if made is None or made.keys is None or made.probs or p is None:
            return
        left, right = self.trail.tag(p.a), self.trail.tag(p.b)
        if left is not None and right is not None and left.keys is None and right.keys is None:
            for edit in self.edits:
                edit.scores(p.a, self.trail.settled(left).ids, p.b, self.trail.settled(right).ids)

    # -- word embeddings --------------------------------------------------------------------------------------------

    def _embedded(self, out: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        """The word embeddings of an id input: a place to read gradients at, and to edit."""
        index = self.trail.tag(args[0] if args else kwargs["input"])
        tag = self.trail.tag(out)
        if index is None or index.computed or tag is None or tag.lost:
            return out
        return self._entered(out)

    def _entered(self, out: Tensor) -> Tensor:
        """What whole numbers have become: word embeddings of ids, or the numbers themselves, no longer whole (pixels)."""
        tag = self.trail.tag(out)
        assert tag is not None
        name = Entry(tag.source.name, sum(stream_of(k) == tag.source.name for k in self.leaves))
        if tag.raw:
            self.placed[name] = tag.ids
        else:
            self.embedded[name] = tag.ids[..., 0]
        entered = self.leaf(name, out, tag).clone()  # the model may add positions to it in place, and BLIP does
        self.trail.put(entered, tag)
        return entered

    def leaf(self, name: Entry, value: Tensor, tag: Tag) -> Tensor:
        """A place where gradients are read and edits act."""
        for edit in self.edits:
            new = edit.entered(name, value)
            value = value if new is None else new.to(value.dtype)
        value = differentiable(value)
        self.leaves[name] = value
        self.trail.put(value, tag)
        self.may_rest()
        return value

    # -- attention --------------------------------------------------------------------------------------------------

    def _fused(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, args, strict=False)) | kwargs
        q, k, v = given["query"], given["key"], given["value"]
        self._free_mask(given)
        unseen = any(e.blind for e in self.edits) and q.shape[:-3] == k.shape[:-3] == v.shape[:-3]
        out: Tensor = q.new_empty(*q.shape[:-1], v.shape[-1]) if unseen else self._run(func, (), given)
        tags = [self.trail.tag(t) for t in (q, k, v)]
        scale, causal, mask = given.get("scale"), bool(given.get("is_causal", False)), given.get("attn_mask")
        more: dict[str, Any] = {"kernel": "sdpa", "scale": q.shape[-1] ** -0.5 if scale is None else float(scale)}
        fold = None if causal or tags[0] is None else Fold.of(tags[0].ids, -2, tags[0].folded)
        if fold is None:
            more |= {"output": out, "q": q, "k": k, "v": v, "mask": mask, "causal": causal}
            return self._called(tags, tuple(out.shape[:-2]), v, **more)
        q, k, v = fold(q, -2), k.unsqueeze(-3), v.unsqueeze(-3)
        mask = mask if mask is None or mask.ndim < 2 else fold(mask, -2)
        tags = fold.tags(tags)
        more |= {"output": fold.cut(out, -2), "axes": fold.axes(range(out.ndim), out.ndim - 2)}
        more |= {"q": q, "k": k, "v": v, "mask": mask}
        return self._folded_again(self._called(tags, tuple(q.shape[:-2]), v, **more), out.ndim - 2)

    def _folded_again(self, out: Tensor, dim: int) -> Tensor:
        """What a call with its heads apart gave, as the model has it: folded into the rows, the axis `dim`."""
        folded: Tensor = self._followed(Tensor.flatten, "flatten", (out, dim, dim + 1), {})
        return folded

    def _free_mask(self, given: dict[str, Any]) -> None:
        """A bias that comes from parameters alone (T5's positions) asks for no gradient here; asking would unfuse the call."""
        mask = given.get("attn_mask")
        tag = self.trail.tag(mask)
        if isinstance(mask, Tensor) and mask.requires_grad and (tag is None or tag.source.rank >= 10_000):
            given["attn_mask"] = mask.detach()

    def _lost_call(self, why: str, out: Tensor) -> AttentionCall:
        nobody, module = torch.zeros(1, 0, dtype=torch.int64), self._module()
        self.overrides.places[len(self.calls)] = CallPlace(
            len(self.calls), module, tuple(out.shape[:-2]), out.shape[-2], 0
        )
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
            lost=why,
            block=self.frames.block(),
        )

    def _module(self) -> str:
        """The module at work."""
        return self.frames.stack[-1] if self.frames.stack else ""

    def _explicit(self, p: Product, out: Tensor) -> Tensor:
        """Weights that the model made itself, times values."""
        tags, fields = weights_and_values(self.trail, p)
        shape = tuple(out.permute(fields["axes"]).shape[: -1 if fields["single"] else -2])
        rows = self.trail.tag(p.a)
        fold = None if fields["single"] or tags[0] is None or rows is None else Fold.of(tags[0].ids, -2, rows.folded)
        if fold is None:
            return self._product(p, tags, shape, out, fields)
        row = fields["axes"][-2]
        fields |= {"A": fold(fields["A"], -2), "v": fields["v"].unsqueeze(-3), "axes": fold.axes(fields["axes"], row)}
        made = self._product(p, fold.tags(tags), (*shape, fold.shape[fold.head]), fold.cut(out, row), fields)
        return self._folded_again(made, row)

    def _product(
        self, p: Product, tags: Sequence[Tag | None], shape: tuple[int, ...], out: Tensor, fields: dict[str, Any]
    ) -> Tensor:
        """A call of weights that the model made, or the same map once more."""
        first = self._multiplied_before(p.a, tags[2])
        if first is not None:
            return self._once_more(first, tags, shape, out, fields)
        self.maps.append((len(self.calls), p.a))
        return self._called(tags, shape, p.b, output=out, kernel="softmax", **fields)

    def _multiplied_before(self, A: Tensor, values: Tag | None) -> AttentionCall | None:
        """The call in which the same map has multiplied other values already; not one that these values rest on."""
        probs = self._softmax_of(A)
        for index, before in self.maps:
            call = self.calls[index]
            if call.lost or (values is not None and values.seen >> call.event & 1):
                continue
            same = A is before or (A.data_ptr() == before.data_ptr() and A.numel() == before.numel())
            if same or (probs and probs == self._softmax_of(before) and descends(node_of(A), node_of(before))):
                return call
        return None

    def _softmax_of(self, A: Tensor) -> int:
        """The number of the softmax that a map has been through, or 0."""
        tag = self.trail.tag(A)
        return tag.probs if tag is not None else 0

    def _once_more(
        self,
        call: AttentionCall,
        tags: Sequence[Tag | None],
        lead: tuple[int, ...],
        out: Tensor,
        fields: dict[str, Any],
    ) -> Tensor:
        """A map times other values (relative positions in the values, values in two parts): the same call, whose G is that of
        both products, ∂y/∂A, since the map is one tensor. Edits change this product, too."""
        q_tag, k_tag, v_tag = (None if t is None else self.trail.settled(t) for t in tags)
        if call.weights is None:
            weights = Weights.of(dict(self.maps)[call.index], call.A)
            why = "" if weights else "its map multiplies several values, and its gradient cannot be read"
            self.calls[call.index] = replace(call, weights=weights, lost=why)
        more = v_tag is not None and not v_tag.lost and v_tag.source.rank < PARAMETERS
        if more and k_tag is not None and v_tag is not None and v_tag.source is not k_tag.source:
            self.trail.doubt(k_tag, f"its values hold {v_tag.source.name}, too, which gets no score for this")
        queries, keys = (self._ids(t, lead) for t in (q_tag, k_tag))
        if queries is None or keys is None or q_tag is None:
            return out
        layout = Layout.of(queries, keys)
        again = replace(
            call, output=out, layout=layout, queries=layout.of_groups(queries), keys=layout.of_groups(keys), **fields
        )
        for edit in self.edits:
            new = edit.call(again)
            if new is not None:
                out = differentiable(new.to(out.dtype))
                again = replace(again, output=out)
        self.trail.put(out, Tag(self._output_ids(again, q_tag), q_tag.source, seen=1 << call.event))
        return out

    def _called(self, tags: Sequence[Tag | None], lead: tuple[int, ...], values: Tensor, **fields: Any) -> Tensor:
        """Make the call, let the edits change its output, and tag that output with the query's rows.

        `values` are v as the model handed them over.
        """
        widths.read(self.trail, values, fields.get("q"), fields.get("k"))
        cut = not fields["output"].requires_grad
        fields["output"] = out = differentiable(fields["output"])
        q_tag, k_tag, v_tag = (t if t is None else self.trail.settled(t) for t in tags)
        v_tag = (
            k_tag if v_tag is None else v_tag
        )  # constants (DETR's first values are zeros) stand for their keys' tokens
        read = [t.source.rank for t in (k_tag, v_tag) if t is not None]
        for tag in (q_tag, k_tag, v_tag):
            if tag is not None and tag.mixed:
                self.trail.mixes(f"{tag.mixed} of different tokens", tag)
        place = CallPlace(len(self.calls), self._module(), lead, *_size(fields))
        q_tag, k_tag, v_tag = self._said(place, q_tag, k_tag, v_tag)
        where = self._names_lost(queries=q_tag, keys=k_tag, values=v_tag)
        queries, keys = (self._ids(t, lead) for t in (q_tag, v_tag))
        told = 0
        if not where and queries is not None and keys is not None and v_tag is not None:
            v_tag, layout, queries, keys, rows = self._grouped(v_tag, queries, keys)
            queries, told = self.trail.copies_apart(queries) if rows.numel() < queries.numel() else (queries, 0)
            if told and q_tag is not None:
                q_tag = replace(q_tag, ids=layout.back(queries[:, None, :, None].expand(-1, layout.heads, -1, 1)))
                rows = queries.unique()
        else:
            layout = _flat(lead)
            queries = keys = rows = torch.zeros(1, 0, dtype=torch.int64)
        event = self.trail.next_event(call=True)
        self.trail.queried[event] = rows
        call = AttentionCall(
            index=place.index,
            event=event,
            module=place.module,
            layout=layout,
            queries=queries,
            keys=keys,
            seen=v_tag.seen if v_tag else 0,
            rows_seen=q_tag.seen if q_tag else 0,
            keys_seen=k_tag.seen if k_tag else 0,
            looks="" if where else self._looks_elsewhere(k_tag, v_tag, lead),
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
        if self.branches is not None:
            self.branches.called(event, out, values)
        if q_tag is not None and queries.shape[1]:
            self.trail.put(out, Tag(self._output_ids(call, q_tag), q_tag.source, seen=told | 1 << event))
        elif where and q_tag is not None:
            self.trail.put(out, nowhere(q_tag, where, out))
        return out

    def _grouped(self, tag: Tag, queries: Tensor, keys: Tensor) -> tuple[Tag, Layout, Tensor, Tensor, Tensor]:
        """The tag of the keys; the layout of ids (lead..., token), these by groups, and the rows among the queries. Layers have
        the same, mostly."""
        few = [thin(ids).contiguous() for ids in (queries, keys)]
        key = tuple((ids.shape, f.shape, f.numpy().tobytes()) for ids, f in zip((queries, keys), few, strict=True))
        if key not in self.groups:
            tag, together = heads_together(self.trail, tag, queries, keys)
            layout = Layout.of(queries, together)
            found = of_their_samples(layout.of_groups(queries), layout.of_groups(together))
            made = layout, *found, found[0].unique()
            if together is not keys:  # learned keys that this call alone has
                return tag, *made
            self.groups[key] = made
        return tag, *self.groups[key]

    def _said(self, place: CallPlace, q: Tag | None, k: Tag | None, v: Tag | None) -> list[Tag | None]:
        """Queries, keys and values as the user says that they are: what is said of keys is said of their values."""
        if not self.overrides.stated:
            self.overrides.places[place.index] = place
            return [q, k, v]
        clear = [None if t is None or not constant(t.ids, -1) else t for t in (q, k, v)]
        queries, keys = self.overrides.corrected(self.trail, place, (q, k), [self._ids(t, place.lead) for t in clear])
        return [queries, keys, v if keys is k else keys]

    def _looks_elsewhere(self, k: Tag | None, v: Tag | None, lead: tuple[int, ...]) -> str:
        """The stream of the keys, where these are other tokens than the values; else ""."""
        keys, values = self._ids(k, lead), self._ids(v, lead)
        if k is None or keys is None or values is None or self.trail.alike(keys, values):
            return ""
        learned = self.trail.learned(keys) & self.trail.learned(values)  # memory keys, and their values
        inputs = [torch.where(learned, 0, ids) for ids in (keys, values)]
        return k.source.name if bool(learned.all()) or not self.trail.alike(*inputs) else ""

    def _names_lost(self, **tags: Tag | None) -> str:
        """Why the tokens of queries, keys or values are not known; "" where they are. G = dO Vᵀ is about the values' tokens."""
        if op := _of_channels(tags["queries"], tags["keys"]):
            return Lost(f"weighs channels, not tokens ({op})", Why.CHANNELS)
        for side in ("keys", "values", "queries"):
            tag = tags[side]
            if tag is None or tag.lost or not constant(tag.ids, -1):
                told = "keys" if side == "values" else side
                self.overrides.lost[len(self.calls)] = (told, tag.source.name if tag is not None else "")
            if tag is None:
                return Lost(f"the {side} come from no input or parameter that was followed", Why.UNFOLLOWED)
            if tag.lost:
                return Lost(f"the trail of the {side} is lost at `{tag.lost}`", kind_of(tag.lost))
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
        ids = ids.squeeze(-2) if call.single else ids
        if call.axes is not None:
            ids = ids.permute([call.axes.index(d) for d in range(ids.ndim)])
            return ids.expand(call.output.shape)
        return ids.expand(call.output.shape)


Until = Callable[[Recorder], bool]
"""When nothing more is to be seen of a run: from then on its operations are the model's own alone."""


def inputs_made(recorder: Recorder) -> bool:
    """Every input's tokens are made (or joined to another's), and attention has begun: no input is cut up any more."""
    trail = recorder.trail
    made = {s.name for s in trail.streams if s.kind == "input"} | {*trail.aliases}
    return bool(recorder.calls) and made.issuperset(trail.entered)


def entered(names: Collection[str]) -> Until:
    """These inputs, or their word embeddings, have entered."""
    return lambda recorder: recorder.leaves.keys() >= {*names}


def _zeros_instead(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Zeros of the shape that a linear layer or a fused attention gives; None for other operations, which are run."""
    names = {F.linear: ("input", "weight"), F.scaled_dot_product_attention: ("query", "key", "value")}.get(func)
    if names is None:
        return None
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    x, last = given[names[0]], given[names[-1]]
    zeros: Tensor = x.new_zeros(*x.shape[:-1], last.shape[0 if func is F.linear else -1])
    return zeros


def _of_pairs(trail: Trail, t: Tensor, softmax: bool) -> bool:
    """Whether a tensor is scores of pairs of tokens, or weights made of them; where tokens are not known, whether it is what
    a softmax makes of several axes (or is given to one: `softmax`)."""
    tag = trail.tag(t)
    if tag is None or tag.keys is not None:
        return tag is not None
    return bool(tag.lost) and t.ndim > 2 and (softmax or tag.probs > 0)


def _of_channels(q: Tag | None, k: Tag | None) -> str:
    """What shows that a call's rows and keys are features, each summed over the tokens; "" where they are not."""
    if q is None or k is None:
        return ""
    if q.channels:
        return f"`{q.channels}` sums over the tokens"
    turned = [not t.lost and not constant(t.ids, -1) and constant(t.ids, -2) and t.ids.shape[-2] > 1 for t in (q, k)]
    return "tokens stand along the width of its queries and keys" if all(turned) else ""


def _size(fields: Mapping[str, Any]) -> tuple[int, int]:
    """Query rows and keys of a call."""
    if "A" in fields:
        return fields["A"].shape[-2], fields["A"].shape[-1]
    return fields["q"].shape[-2], fields["k"].shape[-2]


def _flat(lead: tuple[int, ...]) -> Layout:
    """A layout for a call whose tokens are not known."""
    return Layout(lead, tuple(range(len(lead))), 1, max(1, torch.Size(lead).numel()))


def differentiable(t: Tensor) -> Tensor:
    """The tensor, part of a graph: gradients at it can be asked for. Frozen parameters make this needed."""
    if torch.is_grad_enabled() and t.is_floating_point() and not t.requires_grad:
        return t.requires_grad_() if t.is_leaf and not t.is_inference() else t.detach().requires_grad_()
    return t
