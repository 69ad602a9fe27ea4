"""One target: from its value to an Explanation by each method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regard.api.causal_later import late_test
from regard.api.heads_later import late_heads
from regard.api.maps import Maps, maps_of, row_options
from regard.api.measuring import measurement, token_rows, versions
from regard.api.notes import blind_notes, run_notes
from regard.api.samples import CROSSED, MIXED, by_sample, samples_of
from regard.api.shared_run import Watched
from regard.api.target_rows import tokens_read
from regard.api.transferring import late_transfer
from regard.attribution.context import Context, summed
from regard.attribution.integral.path import Path
from regard.attribution.method import Method, OwnSite
from regard.attribution.removal.explained import Removed
from regard.attribution.rerun import Rerun
from regard.errors import NonFinite
from regard.explanation.explanation import Explanation
from regard.explanation.guidance import Guidance
from regard.explanation.places import WHOLE, Grid, Raster
from regard.explanation.prediction import TOP, Prediction
from regard.explanation.raw_inputs import Raw
from regard.explanation.receipt import ExplainedModel, LearnedMask, ReadTokens, Receipt, Surrogate
from regard.explanation.token_rows import TokenRows
from regard.guide import Guide
from regard.head import head_of
from regard.recording import Recording, Stream
from regard.recording.ambient import as_the_user
from regard.recording.independence import crossing
from regard.recording.relevance.rows import Relevance
from regard.recording.tokens import rasters as layouts
from regard.target import Target, Value


def one_target(
    w: Watched, target: Target, rows: Sequence[Method], options: dict[str, Any], keep: bool
) -> list[Explanation]:
    """Explanations of one target by each method. `keep`: the graph is needed once more."""
    recording, wish = w.recording, target
    target, value = _value(recording, target)
    crossed, told = (False, 0) if value.shared else crossing(recording, value.y)
    value = replace(value, shared=True) if crossed else value
    maps = _maps(w, target, value, rows, options, keep)
    shown = [m.shown(i) for i, m in enumerate(maps)] if value.shared else []
    mixed = crossed and any(m.reads_more(s) for m, s in zip(maps, shown, strict=True))
    out = []
    for row in rows:
        exp = OneMap(w, target, value, row, row_options(row, options), maps, shown, wish).explanation()
        exp.receipt.passes += told
        exp.receipt.complete &= not mixed
        exp.receipt.notes += [MIXED if mixed else CROSSED] if crossed else []
        if not exp.receipt.complete:  # some of y lies elsewhere, so that nothing is claimed of the sum
            exp.receipt.conservation = None
        out.append(exp)
    return out


def _value(recording: Recording, target: Target) -> tuple[Target, Value]:
    """The target, knowing the model's head, and y. Raises NonFinite where y is no number."""
    with torch.enable_grad(), as_the_user():
        target = target.on(recording.model, recording.output)
        value = target.value(recording.output, recording.inputs)
    if not bool(torch.isfinite(value.y).all()):
        values = value.y.detach().tolist()
        raise NonFinite(
            f"the target ({target.label}) is not a finite number: {values}; the model's output holds NaN or infinity"
        )
    return target, by_sample(recording, value)


def _maps(
    w: Watched, target: Target, value: Value, rows: Sequence[Method], options: dict[str, Any], keep: bool
) -> list[Maps]:
    """The maps of all methods: once for all samples, or once for each where they read one another."""
    with torch.enable_grad():
        parts = value.y.split(1) if value.shared else (value.y,)
    again = _again(w, target, value)
    return [
        maps_of(
            w,
            y,
            replace(again, shared=i if value.shared else None),
            rows,
            options,
            keep or i < len(parts) - 1,
            partial(_siblings, w),
        )
        for i, y in enumerate(parts)
    ]


def _again(w: Watched, target: Target, value: Value) -> Rerun:
    """How the recorded run can be repeated for a target."""
    recording = w.recording
    return Rerun(
        recording.model, recording.given, target, recording.batch, value.explained, value.rival, w.how.streams, w.rng[0],
        in_place=not recording.whole,
    )  # fmt: skip


def _siblings(w: Watched) -> Sequence[Rerun | None]:
    """All targets of the call; None for one whose values rest on several samples."""
    if w.reruns is None:
        known = [_value(w.recording, t) for t in w.targets]
        alone = [not v.shared and len(v.y) == w.recording.batch for _, v in known]
        w.reruns = [_again(w, t, v) if one else None for (t, v), one in zip(known, alone, strict=True)]
    return w.reruns


@dataclass(frozen=True)
class OneMap:
    """What the explanation of one target by one method is made of.

    maps: of all samples, or of each by itself; then `shown` has the sample of each stream that is shown for it. wish: the
    target as it was asked for.
    """

    w: Watched
    target: Target
    value: Value
    row: Method
    options: dict[str, Any]
    maps: Sequence[Maps]
    shown: Sequence[dict[str, int]]
    wish: Target

    def explanation(self) -> Explanation:
        """Scores by stream, with their receipt."""
        w, value, fixed = self.w, self.value, self._fixed
        streams, relevance = self._streams, self._relevance
        scores = self._scores(relevance, streams)
        receipt = self._receipt(relevance, blind_notes(streams, scores, w.reading.raw))
        if w.how.measure != "lazy":
            receipt.measure()
        grid, rasters = _grids(w.recording, streams)
        pairs = self._pairs(streams)
        return Explanation(
            method=self.row.name,
            target=self.target.label,
            scores=scores,
            receipt=receipt,
            grid=grid,
            inputs={k: self._shown(k, v) for k, v in w.reading.raw.items() if k in scores},
            labels=w.reading.labels,
            signed=self.row.is_signed(self.options),
            options={k: v.label if isinstance(v, Guide) else v for k, v in self.options.items()},
            rasters=rasters,
            guidance=self._guidance(streams),
            of_pairs=pairs is not None,
            likely=prediction_of(value, w.recording.model),
            _token_rows=pairs or token_rows(w, fixed, value, self.row, self._guided_options, receipt),
            _transfer=late_transfer(w, fixed, value, receipt),
            _heads=late_heads(w, fixed, value, self.row, self._guided_options, self._read_weights, receipt),
            late_test=late_test(w, self.wish, fixed, value),
        )

    def _guidance(self, streams: Sequence[Stream]) -> Guidance | None:
        """What steered the map, and the map without it."""
        maps, name, guide = self.maps[0], self.row.name, self.options.get("guide")
        if name not in maps.guides or not isinstance(guide, Guide):
            return None
        return Guidance(
            guide.label, guide.kind, maps.guides[name], self._scores(maps.unguided[name], streams), maps.regions
        )

    @property
    def _guided_options(self) -> dict[str, Any]:
        """The options, the guide as the map that was made of it."""
        guides = self.maps[0].guides
        return self.options | ({"guide": guides[self.row.name]} if self.row.name in guides else {})

    @property
    def _read_weights(self) -> dict[int, Tensor]:
        """The read-out, of a method that walks from it."""
        return dict(self.maps[0].readout.items()) if self.row.preset else {}

    @property
    def _context(self) -> Context:
        return self.maps[0].contexts[self.row.name]

    @property
    def _paths(self) -> list[Path | Removed]:
        return [p for m in self.maps if (p := m.contexts[self.row.name].reference) is not None]

    @property
    def _fixed(self) -> Target:
        """The target with its classes fixed, for runs in which others may be predicted."""
        value = self.value
        return self.target if value.explained is None else self.target.at(value.explained, value.rival)

    @property
    def _relevance(self) -> Relevance:
        name = self.row.name
        if not self.value.shared:
            return self.maps[0].relevance[name]
        return torch.stack([m.of_samples(m.relevance[name], s) for m, s in zip(self.maps, self.shown, strict=True)])

    def _pairs(self, streams: Sequence[Stream]) -> TokenRows | None:
        """What pairs of tokens do together, of a method that finds that at once."""
        contexts = [m.contexts[self.row.name] for m in self.maps]
        if contexts[0].between is None:
            return None
        known, errors = (
            {q.name: {k.name: whole[:, q.rows, k.rows] for k in streams} for q in streams}
            for whole in (
                torch.cat([getattr(c, what) for c in contexts]).to(self.value.y.device)
                for what in ("between", "between_errors")
            )
        )
        return TokenRows(tokens={s.name: [*range(s.count)] for s in streams}, known=known, errors=errors)

    def _surrogate(self, streams: Sequence[Stream]) -> Surrogate | None:
        """What a linear model that was fitted to runs says of itself."""
        contexts = [m.contexts[self.row.name] for m in self.maps]
        fits = [f for c in contexts for f in c.fits]
        if not fits:
            return None
        errors = contexts[0].errors
        if self.value.shared:
            pairs = zip(self.maps, contexts, self.shown, strict=True)
            errors = torch.stack([m.of_samples(c.errors, s) for m, c, s in pairs])
        return Surrogate.of(fits, self._scores(errors, streams))

    def _mask(self) -> LearnedMask | None:
        """What a mask that was learned for the target says of itself."""
        learned = [m.contexts[self.row.name].mask for m in self.maps]
        return LearnedMask.joined(learned) if learned[0] is not None else None

    def _explained_model(self) -> ExplainedModel | None:
        """The model that the map is of, where it is another one than the user's."""
        others: list[ExplainedModel | None] = [m.contexts[self.row.name].explained_model for m in self.maps]
        known = [o for o in others if o is not None]
        return replace(known[0], target_difference=torch.cat([o.target_difference for o in known])) if known else None

    @property
    def _streams(self) -> list[Stream]:
        return [s for s in self._context.cells or self.w.recording.streams if s.shown]

    def _scores(self, relevance: Relevance, streams: Sequence[Stream]) -> dict[str, Tensor]:
        y, recording = self.value.y, self.w.recording
        several = len(relevance) > len(y)  # one y that rests on several samples of some input
        counts = {s.name: samples_of(recording, s) if several else len(relevance) for s in streams}
        return {s.name: relevance[: counts[s.name], s.rows].float().to(y.device) for s in streams}

    def _shown(self, stream: str, raw: Sequence[Raw]) -> Sequence[Raw]:
        """The raw inputs that the rows of a map show."""
        samples = [s[stream] for s in self.shown]
        return [raw[i] for i in samples] if samples and max(samples) < len(raw) else raw

    def _receipt(self, relevance: Relevance, blind: list[str]) -> Receipt:
        w, row, value, paths = self.w, self.row, self.value, self._paths
        along = paths[0] if paths else None
        return Receipt(
            method=row.name,
            target=self.target.label,
            target_value=value.y.detach().float().cpu(),
            baseline=row.baseline if along is None else along.baseline,
            site=str(row.site) if along is None else along.site.label,
            readout=self._context.read or self._how_read(),
            reads=self._reads(),
            asked=w.how.readout is not None,
            classes=self.target.classes,
            attribution_sum=summed(relevance, len(value.y)),
            decomposes=row.decomposes,
            conservation=self._conservation(relevance),
            surrogate=self._surrogate(self._streams),
            mask=self._mask(),
            explained_model=self._explained_model(),
            complete=along.complete if along is not None else not row.site.of_attention,
            predicted=None if value.predicted is None else value.predicted.cpu(),
            explained=None if value.explained is None else value.explained.cpu(),
            passes=self._passes(),
            seconds=w.seconds + sum(m.seconds[row.name] for m in self.maps),
            versions=versions(),
            seed=w.how.seed,
            notes=self._notes(along) + blind,
            _measure=measurement(w, self._fixed, row, value, self._finals(), paths),
        )

    def _conservation(self, relevance: Relevance) -> Tensor | None:
        """Σa / y, of a method that claims that it is 1."""
        y = self.value.y.detach().float().cpu()
        return summed(relevance, len(y)) / y if self.row.conserves else None

    def _notes(self, along: Path | Removed | None) -> list[str]:
        w, follows = self.w, self.row.follows_maps(self.w.how.site)
        notes = [*self.target.notes, *run_notes(w.recording, follows, along), *(w.proof.notes if w.proof else [])]
        return notes + [n for m in self.maps for n in m.contexts[self.row.name].notes]

    def _passes(self) -> int:
        """Forward and gradient passes: of the run, of the paths, of points that a method runs on its own (two each)."""
        contexts = [m.contexts[self.row.name] for m in self.maps]
        nodes = sum(2 * c.nodes + c.forwards for c in contexts)
        shared = 1 + (len(self.value.y) if self.value.shared else 1) + (self.w.proof.passes if self.w.proof else 0)
        corrected = sum(m.corrected.get(self.row.name, 0) for m in self.maps)
        return shared + sum(p.passes for p in self._paths) + nodes + corrected

    @property
    def _reads_rows(self) -> bool:
        """Whether the method's formula has a read-out."""
        return self.row.follows_maps(self.w.how.site) or self.maps[0].read_by[self.row.name]

    def _how_read(self) -> str:
        """Which rows the target was found to read."""
        return self.maps[0].readout.how if self._reads_rows else "not used by this method"

    def _reads(self) -> list[ReadTokens]:
        """The same as values; none where the method weighs them in its own way, or samples were explained alone."""
        if not self._reads_rows or self._context.read or len(self.maps) > 1:
            return []
        recording = self.w.recording
        return tokens_read(recording.streams if recording.whole else recording.stages, self.maps[0].readout.values())

    def _finals(self) -> tuple[int, ...]:
        """The calls of the attentions that the target reads, where they are what the method is measured against."""
        context = self.maps[0].context
        if self.row.site is not OwnSite.LAST_ATTENTION:
            return ()
        return tuple(c for a in context.readout for c in context.recording.attentions[a].calls)


def prediction_of(value: Value, model: nn.Module) -> Prediction | None:
    """The likeliest of the classes that y was read among."""
    if value.among is None:
        return None
    given, known = value.among
    head, given = known or head_of(model, given), given.detach().float()
    scores, classes = given.topk(min(TOP, given.shape[-1]), dim=-1)
    shares = None
    if head.kind != "score" or head.made:
        shares = head.probability(given, log=False)
        shares = (shares.exp() if head.made == "log_softmax" else shares).gather(-1, classes).cpu()
    several = head.several or head.one
    kind = head.made.removeprefix("log_") or head.kind
    return Prediction(classes.cpu(), scores.cpu(), shares, kind, given.shape[-1], several)


def _grids(recording: Recording, streams: Sequence[Stream]) -> tuple[dict[str, Grid], dict[str, Raster]]:
    """The grids of streams that are pictures, and how tokens lie on them."""
    grid: dict[str, Grid] = {s.name: s.grid for s in streams if s.grid is not None}
    rasters = {s.name: Raster(s.window) for s in streams if s.window is not None and s.window != WHOLE}
    merge = layouts.merge_size(getattr(recording.model, "config", None))
    for stream in streams:
        every = layouts.grids(stream.name, stream.count, recording.inputs, merge) if stream.packed else None
        if every is not None:
            grid[stream.name] = every[0] if len(every) == 1 else every
            rasters[stream.name] = Raster(order=tuple(layouts.order(every, merge).tolist()))
        elif (
            stream.grid is None and (flat := layouts.flat_grid(stream.name, stream.count, recording.inputs)) is not None
        ):
            grid[stream.name] = flat
            rasters[stream.name] = Raster(order=tuple(range(math.prod(flat))), each=True)
    return grid, rasters
