"""What costs extra passes, and is run when it is asked for: the checks of the receipt, and rows from token to token."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from regard.api.shared_run import Watched
from regard.attribution.attention.path_rules import Corrected, Fusion, Preset, rows_between
from regard.attribution.integral.baseline_values import zero_of
from regard.attribution.integral.path import Path
from regard.attribution.method import Method, OwnSite
from regard.attribution.removal.explained import Removed
from regard.explanation.receipt import Measured, Receipt
from regard.explanation.token_rows import TokenRows
from regard.recording import Gradients, Recording, record
from regard.recording.ambient import as_the_user, our_own
from regard.recording.backward import AttentionRule
from regard.recording.edits import Edit, Replace, Scale
from regard.recording.inputs import Inputs
from regard.recording.random_state import rng_kept
from regard.recording.refusals import difference, floats_in, refuse
from regard.recording.run import run
from regard.recording.tokens.tags import stream_of
from regard.target import Target, Value
from regard.version import __version__

MIXED_ROWS = "samples read tokens of one another here: explain one pair at a time to see {}"


def measurement(
    w: Watched, target: Target, row: Method, value: Value, finals: tuple[int, ...], paths: Sequence[Path | Removed]
) -> Callable[[], Measured]:
    """A closure for the receipt that does not hold the recording: only the model, its inputs, and the output."""
    model, inputs, named, rng = w.recording.model, w.recording.given, w.recording.inputs, w.rng
    returned, y = _detached(w.recording.returned), value.y.detach()
    edits = None if paths else _baseline_edits(row, finals, w.recording)
    y0 = torch.cat([p.y0 for p in paths]) if paths else None  # known already: the method ran it
    shared, training, around = w.plain, w.how.training, w.around
    key = row.site, row.unit_step, finals if row.site is OwnSite.LAST_ATTENTION else ()

    def measure() -> Measured:
        with torch.no_grad(), rng_kept(model, rng), around.again(), our_own():
            if "output_difference" not in shared:
                shared["output_difference"] = difference(returned, _plain(model, inputs))
            if y0 is not None:
                return Measured(shared["output_difference"], y0, y.float().cpu() - y0, passes=1)
            if edits is None:
                return Measured(shared["output_difference"], None, None, passes=1)
            refuse(model, training)
            if key not in shared:  # targets that share a baseline share its run
                shared[key] = run(model, inputs, edits).output
            base = target.value(shared[key], named).y.detach().float().cpu()
        return Measured(shared["output_difference"], base, y.float().cpu() - base, passes=2)

    return measure


def _baseline_edits(row: Method, finals: tuple[int, ...], recording: Recording) -> list[Edit] | None:
    """The change that puts a method's natural baseline in place; None where it claims no unit of y."""
    if row.site is OwnSite.ATTENTION:
        return [Scale(0.0)]
    if row.site is OwnSite.LAST_ATTENTION:
        return [Scale(0.0, finals)]
    if row.site is OwnSite.INPUT:
        step: Callable[[Tensor], Tensor] = (lambda x: x - 1) if row.unit_step else zero_of
        named = {s.name for s in recording.streams} | {
            a for a in recording.aliases if isinstance(t := recording.inputs.get(a), Tensor) and t.is_floating_point()
        }
        return [Replace({name: step for name in {stream_of(k) for k in recording.leaves} if name in named})]
    return None


def token_rows(
    w: Watched, target: Target, value: Value, row: Method, options: dict[str, Any], receipt: Receipt
) -> TokenRows:
    """How rows of one stream that look at another are found when they are asked for: in a run of their own, as `measure` is."""
    method = row.function(**options) if row.preset else None
    if not isinstance(method, Preset | Fusion):
        return TokenRows(
            refused=f"method {row.name!r} as it was called follows no paths from token to token; use 'gae'"
        )
    if value.shared or len(value.y) < w.recording.batch:
        return TokenRows(refused=MIXED_ROWS.format("which tokens look at which"))
    watched, device = watched_again(w, target, method.complete), value.y.device

    def compute(stream: str, tokens: list[int]) -> dict[str, Tensor]:
        with watched() as (again, gradients):
            rows = rows_between(again, gradients, method, stream, tokens)
        receipt.passes += 2 + sum(p.complete for p in method.presets)
        hidden = again.hidden()
        maps = [again.settled(rows[:, i]).masked_fill(hidden, 0.0) for i in range(len(tokens))]
        whole = torch.stack(maps, 1).float().to(device)
        return {s.name: whole[..., s.rows] for s in again.streams if s.shown}

    return TokenRows(compute)


Again = AbstractContextManager[tuple[Recording, Corrected]]
"""A run watched once more, and its target's gradients: as the model has them (None), or corrected by a rule."""


def watched_again(w: Watched, target: Target, correctable: bool = False) -> Callable[[], Again]:
    """A closure that does not hold the recording: the run watched once more, under the surroundings of the first, and the
    target's gradients."""
    model, inputs, rng, around, how, budget = (
        w.recording.model, w.recording.given, w.rng, w.around, w.how, w.recording.budget
    )  # fmt: skip
    streams, training = how.streams, how.training

    @contextmanager
    def again() -> Iterator[tuple[Recording, Corrected]]:
        refuse(model, training)
        with rng_kept(model, rng), around.again(), our_own():
            recording = record(
                model, inputs, streams=streams, training=training, memory_budget=budget, correctable=correctable
            )
            with torch.enable_grad(), as_the_user():
                y = target.value(recording.output, recording.inputs).y
            known: dict[AttentionRule | None, Gradients] = {}

            def gradients(rule: AttentionRule | None) -> Gradients:
                if rule not in known:
                    known[rule] = recording.gradients(y, keep=correctable, correction=rule)
                return known[rule]

            yield recording, gradients

    return again


def _plain(model: nn.Module, inputs: Inputs) -> Any:
    """The model's own run, unwatched."""
    args, kwargs = inputs.arguments()
    with as_the_user():
        return model(*args, **kwargs)


def _detached(output: Any) -> list[Tensor]:
    return [t.detach() for t in floats_in(output)]


def versions() -> dict[str, str]:
    """Of Regard, PyTorch and Python."""
    return {"regard": __version__, "torch": torch.__version__, "python": platform.python_version()}
