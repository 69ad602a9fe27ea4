"""Whether text looks at the regions that it speaks of: attention from phrases to regions, beside known pairs.

Le et al., "Guiding Visual Question Answering with Attention Priors" (WACV 2023): the attention of a phrase over the regions is
compared with the regions that it is known to mean, and these are put in its place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.attribution.attention.edge_rules import EDGES
from regard.errors import Misuse
from regard.explanation import display
from regard.explanation.raw_inputs import Picture
from regard.probes.imposed import changes, fitting_calls, imposing
from regard.probes.priors import on_rows, stream_called
from regard.probes.watched import Probed, probed, table
from regard.recording import AttentionCall, Recording, Step, Stream


@dataclass(frozen=True)
class Phrase:
    """Tokens of the text of one sample, the regions that they are known to mean, and what to call them."""

    sample: int
    tokens: tuple[int, ...]
    regions: tuple[int, ...]
    said: str


class LayerGrounding(NamedTuple):
    """What a layer does on all phrases: means, and the head that points best (of several, the best is good by chance too)."""

    layer: int
    module: str
    on_regions: float
    on_known: float
    kl: float
    pointing: float
    best_head: int
    best_pointing: float


@dataclass(frozen=True)
class Grounding:
    """Attention of phrases to regions, layer by layer: the mean over a phrase's tokens and over heads.

    Attributes:
        query_stream, key_stream: of the text, and of the regions. phrases: what was asked.
        layers, modules: the attentions in which text looks at regions.
        attention: p, over the regions alone, brought to sum 1. on_regions: the share that these have of what is looked at.
        on_known: what p has on the known regions. kl: KL(q‖p) in nats, q uniform over the known regions.
        pointing: 1 where the largest of p is a known region (of equal ones: the share that are).
        head_pointing: for each layer, how often each of its heads points rightly.
        chance: on_known and pointing of even attention, and kl_even its KL.
        target, before, after, predicted_before, predicted_after: as of `AttentionRerun`, with q in the place of p in all these
            layers and their heads. passes: forward passes.
        names, classes: what to call samples and classes, where somebody said so. pictures: of each sample, with its regions,
            where a reader made them.
    """

    query_stream: str
    key_stream: str
    phrases: list[Phrase]
    layers: list[int]
    modules: list[str]
    attention: Float[Tensor, "layer phrase region"] = field(repr=False)
    on_regions: Float[Tensor, "layer phrase"] = field(repr=False)
    on_known: Float[Tensor, "layer phrase"] = field(repr=False)
    kl: Float[Tensor, "layer phrase"] = field(repr=False)
    pointing: Float[Tensor, "layer phrase"] = field(repr=False)
    head_pointing: list[Float[Tensor, " head"]] = field(repr=False)
    chance: Float[Tensor, " phrase"] = field(repr=False)
    kl_even: Float[Tensor, " phrase"] = field(repr=False)
    target: str
    before: Float[Tensor, " batch"]
    after: Float[Tensor, " batch"]
    predicted_before: Int[Tensor, " batch"] | None
    predicted_after: Int[Tensor, " batch"] | None
    passes: int = 0
    names: tuple[str, ...] = field(default=(), repr=False)
    classes: tuple[str, ...] = field(default=(), repr=False)
    pictures: tuple[Picture, ...] = field(default=(), repr=False)

    def rows(self) -> list[LayerGrounding]:
        """Each layer in numbers, means over the phrases."""
        means = [t.mean(1).tolist() for t in (self.on_regions, self.on_known, self.kl, self.pointing)]
        best = [(int(h.argmax()), float(h.max())) for h in self.head_pointing]
        columns = zip(self.layers, self.modules, *means, *zip(*best, strict=True), strict=True)
        return [LayerGrounding(*row) for row in columns]

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page (needs `regard[viz]`)."""
        return display.write_probe(self, path)

    def __str__(self) -> str:
        head = ("layer", "module", "on all regions", "on the known", "KL", "pointing", "best head", "its pointing")
        rows = [(str(r.layer), r.module, *(f"{v:.3f}" for v in r[2:6]), str(r[6]), f"{r[7]:.3f}") for r in self.rows()]
        chance = f"{float(self.chance.mean()):.3f}"
        even = ("", "even attention", "", chance, f"{float(self.kl_even.mean()):.3f}", chance, "", "")
        count = f"{len(self.phrases)} {'phrase' if len(self.phrases) == 1 else 'phrases'}"
        after = f"{self.target}, with attention put on the known regions"
        return "\n".join(
            [f"{self.query_stream} to {self.key_stream}, {count}", table(head, [*rows, even]), after, changes(self)]
        )

    __repr__ = __str__


def grounding(
    model: nn.Module,
    inputs: Any,
    target: Any = None,
    *,
    pairs: Sequence[Any],
    query_stream: str | None = None,
    key_stream: str | None = None,
    **options: Any,
) -> Grounding:
    """How well attention from words to regions agrees with what the words are known to mean, and what the known would change.

    Args:
        model, inputs, target: as in `regard.explain`; of a text and of regions, or of a picture's patches.
        pairs: for each sample a list of (tokens, regions): numbers of tokens of the text (0 is the first; special ones count),
            and numbers of the regions that they mean. Each side is a number, several, or a boolean mask over all. A third
            entry says what to call the phrase.
        query_stream, key_stream: of the text and of the regions; None: the ids, and the only other input.
        options: streams, training, batch_axis, memory_budget, as in `regard.explain`.

    Raises Misuse where no text looks at regions, where a pair names a token or region that there is not, and where samples read
    one another.
    """
    with probed(model, inputs, target, **options) as run:
        text, regions = _streams(run.recording, query_stream, key_stream)
        phrases = [*_phrases(run.recording, pairs, text, regions)]
        return _measured(run, text, regions, phrases)


def _measured(run: Probed, text: Stream, regions: Stream, phrases: list[Phrase]) -> Grounding:
    recording = run.recording
    q = torch.stack([_known(phrase, regions.count) for phrase in phrases])
    prior = on_rows(recording, _on_tokens(recording, phrases, q, text), text, regions)
    calls = fitting_calls(recording, [prior])
    layers = sorted({recording.calls[i].attention for i in calls})
    looks = [looking(recording, layer, phrases, text, regions) for layer in layers]
    whole = torch.stack([mean.sum(-1) for mean, _ in looks])
    p = torch.stack([brought_to_one(mean) for mean, _ in looks])
    there = ~recording.padded[regions.name][[f.sample for f in phrases]]
    even, inside = there / there.sum(-1, keepdim=True).double(), (q > 0).double()
    after, predicted = run.changed(imposing(recording, [prior], calls))
    return Grounding(
        query_stream=text.name,
        key_stream=regions.name,
        phrases=phrases,
        layers=layers,
        modules=[recording.calls_of(layer)[0].module for layer in layers],
        attention=p,
        on_regions=whole,
        on_known=(p * inside).sum(-1),
        kl=kl(q, p),
        pointing=pointing(p, inside),
        head_pointing=[pointing(heads, inside).mean(1) for _, heads in looks],
        chance=(even * inside).sum(-1),
        kl_even=kl(q, even),
        target=run.label,
        before=run.y.detach().double().cpu(),
        after=after,
        predicted_before=run.predicted,
        predicted_after=predicted,
        passes=run.passes,
    )


def kl(q: Float[Tensor, "*#some region"], p: Float[Tensor, "*some region"]) -> Float[Tensor, "*some"]:
    """KL(q‖p) = Σ q log(q / p); infinite where p has nothing on a region that q has something on."""
    terms: Tensor = torch.special.xlogy(q, q) - torch.where(q > 0, q * p.log(), 0.0)
    return terms.sum(-1)


def pointing(
    p: Float[Tensor, "*some phrase region"], inside: Float[Tensor, "phrase region"]
) -> Float[Tensor, "*some phrase"]:
    """1 where the largest of p lies inside, 0 where it does not; of several that are equal, the share that do."""
    top = (p == p.amax(-1, keepdim=True)).double()
    return (top * inside).sum(-1) / top.sum(-1)


def brought_to_one(x: Float[Tensor, "*some region"]) -> Float[Tensor, "*some region"]:
    """x over its sum; zeros stay."""
    total = x.sum(-1, keepdim=True)
    return torch.where(total > 0, x / total.clamp(min=1e-300), 0.0)


def _known(phrase: Phrase, count: int) -> Float[Tensor, " region"]:
    """q: uniform over the known regions."""
    q = torch.zeros(count, dtype=torch.float64)
    q[list(phrase.regions)] = 1 / len(phrase.regions)
    return q


def _on_tokens(
    recording: Recording, phrases: Sequence[Phrase], q: Float[Tensor, "phrase region"], text: Stream
) -> Float[Tensor, "batch token region"]:
    """q of the phrases that each token belongs to, summed (a token of two phrases means the regions of both)."""
    out = torch.zeros(recording.batch, text.count, q.shape[1], dtype=torch.float64)
    for phrase, known in zip(phrases, q, strict=True):
        out[phrase.sample, list(phrase.tokens)] += known
    return out


# -- what phrases look at -----------------------------------------------------------------------------------------------


def looking(
    recording: Recording, layer: int, phrases: Sequence[Phrase], text: Stream, regions: Stream
) -> tuple[Float[Tensor, "phrase region"], Float[Tensor, "head phrase region"]]:
    """What a phrase's tokens have on each region in an attention, of all that they have on tokens: the mean over heads, and
    head by head (in a unit of its own)."""
    slot = [sum(g.sample == f.sample for g in phrases[:i]) for i, f in enumerate(phrases)]
    r = recording.zeros().repeat(max(slot) + 1, 1, 1)
    for k, f in zip(slot, phrases, strict=True):
        r[k, f.sample, [text.first + t for t in f.tokens]] = 1 / len(f.tokens)
    pulled = {c.index: _pulled(recording, c, r) for c in recording.calls_of(layer)}
    mean = torch.stack([each[0] for each in pulled.values()]).sum(0)
    heads = _heads(recording, layer, {i: each[1:] for i, each in pulled.items()})
    of_mean, of_heads = (recording.settled(t)[..., slot, [f.sample for f in phrases], :] for t in (mean, heads))
    share = of_mean.double() / of_mean.double().sum(-1, keepdim=True).clamp(min=1e-300)
    return share[:, regions.rows], of_heads[..., regions.rows].double()


def _heads(recording: Recording, layer: int, by_call: dict[int, Tensor]) -> Float[Tensor, "head slot batch row"]:
    """The heads of an attention: those of its calls one after the other, but for chunks and windows, whose calls have other
    rows of the same heads."""
    found: list[tuple[Tensor, Tensor]] = []
    for some in recording.attentions[layer].heads:
        rows = torch.cat([recording.calls[i].queries.flatten() for i in some])
        each = torch.cat([by_call[i] for i in some])
        for k, (others, theirs) in enumerate(found):
            if len(theirs) == len(each) and not bool(torch.isin(rows[rows > 0], others).any()):
                found[k] = torch.cat([others, rows]), theirs + each
                break
        else:
            found.append((rows, each))
    return torch.cat([each for _, each in found])


def _pulled(
    recording: Recording, call: AttentionCall, r: Float[Tensor, "slot batch row"]
) -> Float[Tensor, "some slot batch row"]:
    """r A of a call on all rows: of the mean over heads, as it counts in its attention, then of each head."""
    groups, heads, *_ = call.shape
    at = recording.gather(r, call.queries)
    steps = [Step(EDGES["mean"])] + [
        Step(EDGES["mean"], heads=theta.expand(groups, heads)) for theta in torch.eye(heads)[:, None]
    ]
    return torch.stack([recording.scatter(p.moved, call.keys) for p in call.pull_all([s.pull(at) for s in steps])])


# -- what was asked -----------------------------------------------------------------------------------------------------


def _streams(recording: Recording, text: str | None, regions: str | None) -> tuple[Stream, Stream]:
    """The streams of the words and of the regions. Raises Misuse where it is not clear which they are."""
    known = [s.name for s in recording.streams if s.of_input and s.shown]
    ids = [n for n in known if n in recording.embedded]
    text = text or (ids[0] if len(ids) == 1 else None)
    others = [n for n in known if n not in ids and n != text]
    regions = regions or (others[0] if len(others) == 1 else None)
    if text is None or regions is None:
        raise Misuse(
            "it is not clear which stream is the text and which the regions: say query_stream= and key_stream=, of "
            + ", ".join(known)
        )
    if text == regions:
        raise Misuse(f"{text!r} cannot be the text and the regions at once")
    return stream_called(recording, text), stream_called(recording, regions)


def _phrases(recording: Recording, pairs: Any, text: Stream, regions: Stream) -> Iterator[Phrase]:
    """What was asked, checked."""
    lists = isinstance(pairs, Sequence) and not isinstance(pairs, str)
    lists = lists and all(isinstance(own, Sequence) and not isinstance(own, str) for own in pairs)
    if not lists or len(pairs) != recording.batch:
        got = f"{len(pairs)} lists" if lists else type(pairs).__name__
        raise Misuse(
            f"pairs is a list with a list of (tokens, regions) for each of {recording.batch} samples, not {got}"
        )
    if not any(len(own) for own in pairs):
        raise Misuse("no pair is given: what some tokens of the text mean must be known")
    for sample, own in enumerate(pairs):
        for pair in own:
            if not isinstance(pair, tuple | list) or len(pair) not in (2, 3):
                raise Misuse(
                    f"a pair is (tokens, regions), by number, or (tokens, regions, name); not {str(pair)[:60]!r}"
                )
            tokens, known = (_numbers(recording, sample, *side) for side in ((pair[0], text), (pair[1], regions)))
            said = str(pair[2]) if len(pair) == 3 else _counted("token", tokens)
            yield Phrase(sample, tokens, known, said)


def _counted(what: str, numbers: Sequence[int]) -> str:
    return f"{what}{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"


def _numbers(recording: Recording, sample: int, given: Any, stream: Stream) -> tuple[int, ...]:
    """Numbers of tokens that are there: of one, of several, or where a mask says so."""
    try:
        asked = torch.as_tensor(given).cpu()
    except (TypeError, ValueError, RuntimeError):
        asked = torch.zeros(0)
    if asked.dtype == torch.bool:
        asked = asked.nonzero()[:, 0] if asked.shape == (stream.count,) else torch.zeros(0)
    numbers = tuple(dict.fromkeys(asked.flatten().tolist())) if asked.ndim < 2 and not asked.is_floating_point() else ()
    if not numbers or not all(0 <= n < stream.count for n in numbers):
        raise Misuse(
            f"{str(given)[:60]} names no tokens of {stream.name!r}: give numbers from 0 to {stream.count - 1}, or a mask"
        )
    if bool(recording.padded[stream.name][sample, list(numbers)].any()):
        raise Misuse(
            f"{_counted('token', numbers)} of {stream.name!r} in sample {sample} is padding, in whole or in part"
        )
    return numbers


__all__ = ["Grounding", "LayerGrounding", "Phrase", "grounding", "kl", "pointing"]
