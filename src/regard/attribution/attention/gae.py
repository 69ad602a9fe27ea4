"""Generic Attention-model Explainability (Chefer et al., ICCV 2021), in two forms.

`walk`: row r of Π(I + E), over all streams together: rules 5 and 6 of the paper for self-attention, and the coupled roll-out
for several sources. `bimodal`: the paper's rules for co-attention and encoder-decoders, formulas.md section 5. They are the
same for a single source. With E = E_h (G⊙A)₊ of a call whose rows are of source s and whose keys are of source q,

    s = q:  R_ss += E R_ss,  R_sb += E R_sb                        (b: any other source)
    s ≠ q:  R_sq += R̄_ssᵀ E R̄_qq,  R_ss += E R_qs,  R_sb += E R_qb   (all from the states that the call itself read)

R̄ = I + rownorm(R − I). A row of R − I that is zero contributes identity; divided by its sum, as in public code, it would be
NaN and take the whole update with it (the first decoder layer of DETR, whose queries are zero, is such a case).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from regard.attribution.attention.chosen_heads import ChosenHeads, Wanted
from regard.attribution.attention.edge_rules import EDGES
from regard.attribution.attention.guidance import GuideMaps
from regard.attribution.attention.path_rules import Preset
from regard.attribution.context import Context, Relevance
from regard.errors import Misuse, nearest
from regard.recording import AttentionCall, Recording, Step
from regard.recording.backward import guide_of
from regard.recording.calls import Pull
from regard.recording.relevance.propagation import Part, Walker, walk
from regard.recording.tokens.tags import STRIDE, Merge

FORMS = ("walk", "bimodal")
POSITIVE = EDGES["positive"]
Matrix = Float[Tensor, "batch row other"]


def gae(
    *, start_layer: int = 0, form: str | None = None, guide: GuideMaps | None = None, heads: Wanted = None
) -> Preset | Callable[[Context], Relevance]:
    """Generic Attention-model Explainability, rule 5: (positive, residual_sum).

    form: "walk" (the row of one joint roll-out, which needs rows only, and which the other methods of this family take),
    "bimodal" (the paper's own rules for several sources), or None: bimodal where exactly two sources are read (co-attention,
    encoder-decoders, object queries), else the walk; the receipt says which. Both are the same for one source.
    guide: a map over tokens that steers the attention (guidance.py).
    heads: E is the mean over these heads alone, 5 or [0, 5], in every layer; or those of some layers, {3: 5} (in words 3:5),
    with paths through no other layer. Then it is the walk.
    """
    if form is not None and form not in FORMS:
        raise nearest(str(form), FORMS, "form")
    chosen = ChosenHeads.make(heads)
    if chosen is not None:
        return _of_heads(chosen, form, start_layer, guide)
    if form is None:
        return ByItsAuthors("positive", "residual_sum", None, start_layer, guide=guide)
    preset = Preset("positive", "residual_sum", None, start_layer, guide=guide)
    return preset if form == "walk" else lambda context: bimodal(context, preset)


def _of_heads(chosen: ChosenHeads, form: str | None, start_layer: int, guide: GuideMaps | None) -> Preset:
    """The walk along some heads."""
    if form == "bimodal":
        raise Misuse("heads are followed by the walk alone; leave form='bimodal' out")
    if chosen.layers and start_layer:
        raise Misuse("heads= names its layers; leave start_layer out")
    return Preset("positive", "residual_sum", None, start_layer, guide=guide, heads=chosen)


class ByItsAuthors(Preset):
    """The walk, or the rules for two sources where two are read and these rules are defined."""

    def chosen(self, recording: Recording) -> tuple[Preset | Callable[[Context], Relevance], str]:
        """Which form it is for a run, and a note on it."""
        ends = {recording.ends(c) for c in recording.calls if c.keys.numel()}
        read = {source for pair in ends for source in pair if source}
        if len(read) < 2 or all(here == there for here, there in ends):
            return self, ""
        if len(read) > 2:
            return self, f'{len(read)} sources are read: gae is one joint roll-out (form="walk")'
        try:
            Graph(recording, [c for c in recording.calls if c.keys.numel()]).check()
        except Misuse:
            return self, 'tokens merge or are copied on the way: gae is one joint roll-out (form="walk")'
        return partial(bimodal, preset=self), 'two sources are read: gae by the rules of its paper (form="bimodal")'


def bimodal(context: Context, preset: Preset) -> Relevance:
    """Row r of every R_sb, s the source that is read, less r itself: by rows where that is exact, else by whole matrices.

    Our reading where there are more than two sources: what a third one has brought to the keys comes as R_sb += E R_qb.
    """
    preset.check(context.recording)
    calls = [c for c in context.gradients.calls if c.attention >= preset.start_layer and c.keys.numel()]
    graph = Graph(context.recording, calls, preset.guided(context.recording))
    graph.check()
    by_rows = graph.one_way()
    return sum((graph.row(i, r) if by_rows else graph.whole_row(i, r) for i, r in context.readout.items()), graph.none)


class Graph:
    """The calls of a recording by the source of their rows and of their keys, and what states have absorbed of them."""

    def __init__(self, recording: Recording, calls: Sequence[AttentionCall], guide: Relevance | None = None) -> None:
        self.recording, self.calls, self.of, self.guide = recording, calls, recording.sources, guide
        self.ends = {c.index: recording.ends(c) for c in calls}
        self.events: list[AttentionCall | Merge] = sorted([*calls, *recording.merges], key=lambda e: e.event)
        self.none = recording.zeros()
        self.added_to_ones: dict[int, Relevance] = {}
        nobody = torch.zeros(recording.rows, dtype=torch.bool).index_fill_(0, torch.tensor([0]), True)
        self.rows = {s: (nobody | (self.of == s)).nonzero()[:, 0] for s in self.of.unique().tolist() if s > 0}
        self.place = torch.zeros(recording.rows, dtype=torch.int64)
        for rows in self.rows.values():
            self.place[rows] = torch.arange(len(rows))
        self.updates: dict[int, dict[int, Matrix]] = {}

    def keys(self, call: AttentionCall) -> Tensor | None:
        """The guide at a call's keys: E diag(m) stands for E."""
        return None if self.guide is None else guide_of(self.guide, call)

    def sums(self, seen: int) -> Relevance:
        """(R − I) 1 at a state."""
        return Pushed(self, self.none + 1, self.added_to_ones).at(seen)[1]

    def crosses(self, call: AttentionCall) -> bool:
        """Whether a call's keys are of another source than its rows."""
        here, there = self.ends[call.index]
        return here != there

    def one_way(self) -> bool:
        """Whether no source that is looked at by another looks at one itself."""
        looking, looked_at = (self._cross_ends(i) for i in (0, 1))
        return not looking & looked_at

    def _cross_ends(self, side: int) -> set[int]:
        return {self.ends[c.index][side] for c in self.calls if self.crosses(c)}

    def check(self) -> None:
        """Raise Misuse where R̄_ssᵀ is not square: tokens of s merge."""
        for merge in self.recording.merges:
            if merge.without:
                raise Misuse(
                    "gae's form 'bimodal' is not defined here: tokens at different stages stand side by side; use form='walk'"
                )
            if int(self.of[merge.rows[0]]) in self._cross_ends(0):
                name = next(s.name for s in self.recording.streams if s.first <= int(merge.rows[0]) < s.first + s.count)
                raise Misuse(
                    f"gae's form 'bimodal' is not defined here: {name!r} looks at another stream, and its tokens merge or "
                    "are copied on the way; use form='walk'"
                )

    # -- one way: rows only -----------------------------------------------------------------------------------------

    def row(self, final: int, r: Relevance) -> Relevance:
        """r R_ss − r on the source read; on each other one v + u R_qq − u, v = Σ_c (w_c R̄_ssᵀ) E_c, u = v / (R_qq 1 − 1).

        w_c is the row of relevance that arrives at a cross call c through the calls of s on itself.
        """
        arriving: dict[int, Relevance] = {}

        def step(call: AttentionCall) -> Step | None:
            if not self.crosses(call):
                return Step(POSITIVE, keys=self.keys(call))
            for w in walker.arriving(call).values():
                arriving[call.index] = w
            return None

        walker = Walker(step, [Part(self.recording.seen_by(final), r)])
        total = walk(self.recording, self.calls, [walker])[0].moved
        crossing: dict[int, Relevance] = {}
        for call in self.calls:
            if call.index in arriving:
                v = self._crossed(call, arriving[call.index])
                crossing[call.seen] = crossing.get(call.seen, self.none) + v
        return sum((self._rows_from(seen, v) for seen, v in crossing.items()), total)

    def _crossed(self, call: AttentionCall, w: Relevance) -> Relevance:
        """(w R̄ᵀ) E of one cross call."""
        itself, moved = Pushed(self, w, {}).at(call.rows_seen)
        x = itself + _over(moved, self.sums(call.rows_seen))
        pull = Pull(self.recording.gather(x, call.queries), POSITIVE, keys=self.keys(call))
        return self.recording.scatter(call.pull_all([pull])[0].moved, call.keys)

    def _rows_from(self, seen: int, v: Relevance) -> Relevance:
        """v R̄ at a state: v itself, and u (R − I)."""
        u = _over(v, self.sums(seen))
        walkers = [
            Walker(lambda _call: None, [Part(seen, v)]),
            Walker(lambda call: None if self.crosses(call) else Step(POSITIVE, keys=self.keys(call)), [Part(seen, u)]),
        ]
        alone, spread = walk(self.recording, self.calls, walkers)
        return alone.itself + spread.moved

    # -- both ways: whole matrices ----------------------------------------------------------------------------------

    def whole_row(self, final: int, r: Relevance) -> Relevance:
        """r R_sb − r on every source b."""
        out, own = self.none.clone(), self.recording.ends(self.recording.calls_of(final)[0])[0]
        for b, (_, moved) in self.state(own, self.recording.seen_by(final)).items():
            out[:, self.rows[b]] += (r[:, None, self.rows[own]] @ moved)[:, 0]
        return out

    def state(self, s: int, seen: int) -> dict[int, tuple[Matrix, Matrix]]:
        """b -> (I, R_sb − I) at a state of source s; I only for b = s, changed by token maps alone."""
        n = len(self.rows[s])
        eye = torch.eye(n, dtype=self.none.dtype).repeat(len(self.none), 1, 1)
        out = {s: (eye, torch.zeros_like(eye))}
        for event in self.events:
            if not seen >> event.event & 1:
                continue
            if isinstance(event, Merge):
                if int(self.of[event.rows[0]]) == s:
                    local = replace(event, rows=self.place[event.rows], sources=self.place[event.sources])
                    out = {b: (_merged(local, i), _merged(local, d)) for b, (i, d) in out.items()}
            elif self.ends[event.index][0] == s:
                for b, added in self.update(event).items():
                    itself, moved = out.get(b, (torch.zeros_like(added),) * 2)
                    out[b] = (itself, moved + added)
        return out

    def update(self, call: AttentionCall) -> dict[int, Matrix]:
        """What a call adds to R_sb of its rows' source s, for each b."""
        if call.index not in self.updates:
            s, q = self.ends[call.index]
            E, keys = self.matrix(call), self.state(q, call.seen)
            added = {b: E @ (itself + moved) for b, (itself, moved) in keys.items()}
            if s != q:
                own = self.state(s, call.rows_seen)[s]
                added[q] = _normalised(*own).transpose(1, 2) @ E @ _normalised(*keys[q])
            self.updates[call.index] = added
        return self.updates[call.index]

    def matrix(self, call: AttentionCall) -> Matrix:
        """E of a call over the rows of its two sources, (batch, row of s, row of q)."""
        s, q = self.ends[call.index]
        out = torch.zeros(len(self.none), len(self.rows[s]), len(self.rows[q]), dtype=self.none.dtype)
        m = self.keys(call)
        for index in call.chunks(torch.arange(call.shape[2])):
            _, A, G = call.rows(index)
            assert G is not None
            E = call.shared(POSITIVE.each(A, A * G).mean(1), index)
            E = (E if m is None else E * m[:, None]).cpu()
            ids, keys = call.queries[:, index, None], call.keys[:, None]
            E = torch.where((ids > 0) & (keys > 0), E, 0.0)
            samples = (torch.maximum(ids, keys) // STRIDE - 1).clamp(min=0)
            out.index_put_((samples, self.place[ids % STRIDE], self.place[keys % STRIDE]), E, accumulate=True)
        return out


class Pushed:
    """R x at any state, through the calls of sources on themselves: what each row has of a column x of relevance.

    added: what each call adds to it, as far as it is known.
    """

    def __init__(self, graph: Graph, x: Relevance, added: dict[int, Relevance]) -> None:
        self.graph, self.x, self.added = graph, x, added

    def at(self, seen: int) -> tuple[Relevance, Relevance]:
        """(I x, (R − I) x) at a state that has absorbed `seen`; I holds token maps alone."""
        itself, moved = self.x, torch.zeros_like(self.x)
        for event in self.graph.events:
            if not seen >> event.event & 1:
                continue
            if isinstance(event, Merge):
                itself, moved = (_merged(event, t[..., None])[..., 0] for t in (itself, moved))
            elif not self.graph.crosses(event):
                moved = moved + self._by(event)
        return itself, moved

    def _by(self, call: AttentionCall) -> Relevance:
        """What one call adds, E R x; its keys' state goes first."""
        if call.event not in self.added:
            recording, (itself, moved) = self.graph.recording, self.at(call.seen)
            x, m = recording.gather(itself + moved, call.keys), self.graph.keys(call)
            pushed = call.push(x if m is None else x * m.to(x), POSITIVE)
            self.added[call.event] = recording.scatter(pushed, call.queries)
        return self.added[call.event]


def _merged(merge: Merge, x: Float[Tensor, "batch row column"]) -> Float[Tensor, "batch row column"]:
    """P x: merged rows are made of their sources, in their shares."""
    x = x.clone()
    x[:, merge.rows] = (x[:, merge.sources] * merge.shares.to(x)[..., None]).sum(2)
    return x


def _over(x: Tensor, sums: Tensor) -> Tensor:
    """x / sums; 0 where a sum is 0: that row of R − I is zero, and contributes identity.

    (So small a sum that a number divided by it may overflow counts as 0: below 1e-30 in float32.)
    """
    some = sums > 1e8 * torch.finfo(sums.dtype).tiny
    return torch.where(some, x / torch.where(some, sums, 1.0), 0.0)


def _normalised(itself: Matrix, moved: Matrix) -> Matrix:
    """R̄ = I + rownorm(R − I)."""
    return itself + _over(moved, moved.sum(-1, keepdim=True))


__all__ = ["FORMS", "bimodal", "gae"]
