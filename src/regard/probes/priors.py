"""Attention that is given: what rows look at among some tokens, as a prior has it, in the place of the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from regard.errors import Misuse, nearest
from regard.recording import AttentionCall, Recording, Stream
from regard.recording.tokens.tags import STRIDE


@dataclass(frozen=True)
class Prior:
    """What rows are to have on the tokens of one stream, among these tokens.

    weights: (batch, 1 or token, row), on all rows of the run, in any unit; a row of zeros says nothing. of: the stream whose
    rows look; None: every row. about: the rows that are tokens of the stream looked at. name: what it was called.
    """

    weights: Float[Tensor, "batch token row"]
    of: Stream | None
    about: Bool[Tensor, " row"]
    name: str = ""

    def fits(self, call: AttentionCall) -> bool:
        """Whether a call has rows and keys that the prior speaks of."""
        rows = call.queries % STRIDE
        mine = rows > 0 if self.of is None else (rows >= self.of.first) & (rows < self.of.first + self.of.count)
        return not call.lost and bool(mine.any()) and bool(self.about[call.keys % STRIDE].any())

    def at(self, call: AttentionCall) -> Float[Tensor, "group row key"]:
        """The weights of a call's own rows and keys."""
        sample, row = (call.queries // STRIDE - 1).clamp(min=0), call.queries % STRIDE
        token = torch.zeros_like(row) if self.of is None else row - self.of.first
        mine = row > 0 if self.of is None else (token >= 0) & (token < self.of.count)
        of_rows = self.weights[sample, torch.where(mine, token, 0)] * mine[..., None]
        keys = call.keys % STRIDE
        return of_rows.gather(2, keys[:, None].expand(-1, row.shape[1], -1)) * self.about[keys][:, None]


def prior_of(recording: Recording, between: Any, given: Any) -> Prior:
    """A prior as users give it, checked.

    between: a stream, with weights (tokens,) or (batch, tokens); or two, also as "one to other", with weights (tokens, tokens)
    or with samples first.

    Raises UnknownName for a stream that there is not, Misuse for weights that do not fit.
    """
    names = tuple(between.split(" to ")) if isinstance(between, str) else between if isinstance(between, tuple) else ()
    if not 1 <= len(names) <= 2 or not all(isinstance(name, str) for name in names):
        raise Misuse(
            f"a prior is on a stream, or on (the stream that looks, the stream it looks at); not on {between!r}"
        )
    found = [stream_called(recording, name) for name in names]
    of, stream = (None if len(found) == 1 else found[0]), found[-1]
    return on_rows(recording, _checked(recording, given, found, " to ".join(names)), of, stream)


def on_rows(
    recording: Recording, weights: Float[Tensor, "batch token key"], of: Stream | None, stream: Stream
) -> Prior:
    """Weights on a stream's tokens as a prior on all rows: a row that was merged of tokens has the sum of theirs."""
    placed = torch.zeros(recording.batch, weights.shape[1], recording.rows, dtype=weights.dtype)
    placed[..., stream.rows] = weights
    about = torch.zeros(recording.rows, dtype=torch.bool)
    about[stream.rows] = True
    for merge in recording.merges:
        placed[..., merge.rows] = placed[..., merge.sources].sum(-1)
        about[merge.rows] = about[merge.sources].any(-1)
    return Prior(weights=placed, of=of, about=about, name=stream.name if of is None else f"{of.name} to {stream.name}")


def stream_called(recording: Recording, name: str) -> Stream:
    """The stream of a name. Raises UnknownName for another."""
    known = {s.name: s for s in recording.streams if s.shown}
    if name not in known:
        raise nearest(name, known, "stream")
    return known[name]


def _checked(recording: Recording, given: Any, found: list[Stream], name: str) -> Float[Tensor, "batch token key"]:
    """The weights as numbers, samples first; the same for all samples, or all rows, where they were given so."""
    counts = [s.count for s in found]
    try:
        weights = torch.as_tensor(given).detach().double().cpu()
    except (TypeError, ValueError, RuntimeError) as e:
        raise Misuse(f"the prior on {name!r} is no tensor of numbers: {e}") from e
    several = (recording.batch, *counts)
    if tuple(weights.shape) not in (tuple(counts), several):
        raise Misuse(
            f"the prior on {name!r} has shape {tuple(weights.shape)}; give {tuple(counts)}, or {several} with one for each "
            "sample"
        )
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise Misuse(f"the prior on {name!r} has weights that are negative or no numbers")
    weights = weights.expand(several)
    return weights if len(counts) == 2 else weights[:, None]


def shared_out(
    A: Float[Tensor, "group head row key"],
    open_keys: Bool[Tensor, "#group some row key"],
    p: Float[Tensor, "group row key"],
    about: Bool[Tensor, "group key"],
) -> Float[Tensor, "group head row key"]:
    """A with what each row has on the keys that a prior p is about shared out among them as p says; all else stays.

    So do rows of which p says nothing, and those that may look at none of the keys that it names.
    """
    p, mine = p[:, None].to(A) * open_keys.to(A), about[:, None, None].to(A.device)
    total = p.sum(-1, keepdim=True)
    changed = torch.where(mine, (A * mine).sum(-1, keepdim=True) * p / torch.where(total > 0, total, 1), A)
    return torch.where(total > 0, changed, A)


def priors_of(recording: Recording, given: Mapping[Any, Any]) -> list[Prior]:
    """Every prior of a mapping. Raises Misuse where there is none."""
    if not given:
        raise Misuse("the prior is empty; give {stream: weights}")
    return [prior_of(recording, between, weights) for between, weights in given.items()]


__all__ = ["Prior", "on_rows", "prior_of", "priors_of", "shared_out", "stream_called"]
