"""Which of the words that a model wrote rest on what it was shown, and which on words alone.

Sun et al. (2022), "Explain and improve: LRP-inference fine-tuning for image captioning models": words that name what is not
there rest less on the picture than words that do, and a model that reads its context weighed by relevance, w = 1 + R / max|R|,
is less sure of them. Both are measured here on any model that writes; nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.api.explain_generation import How, explained, targets_of
from regard.errors import Misuse, ModelError, nearest
from regard.explanation.generation import Generation, begins
from regard.explanation.raw_inputs import Reading, Text, words_of
from regard.explanation.trusted_words import TrustedWord, TrustedWords
from regard.models.generate import Written, already, write
from regard.probes.watched import Probed, probed
from regard.recording import Recording
from regard.recording.edits import WeighKeys
from regard.recording.random_state import rng_kept
from regard.recording.refusals import refuse
from regard.target import Target


def words_to_trust(
    model: nn.Module,
    tokenizer: Any,
    reading: Reading,
    notes: Sequence[str] = (),
    answer: Any = None,
    method: str = "gae",
    *,
    shown: Sequence[str] | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
    **options: Any,
) -> TrustedWords:
    """How much of each word's relevance lies on what the model was shown; see `Reader.words_to_trust`."""
    how = How.taken(method, "log_probability", options, given=answer is not None)
    refuse(model, False)
    with rng_kept(model):
        if answer is None:
            written = write(model, tokenizer, reading, max_new_tokens, options, seed)
        else:
            written = already(model, tokenizer, reading, answer, options, seed)
    targets = targets_of("log_probability", written)
    found = explained(model, tokenizer, written, targets, how, notes, seed)
    generation = Generation(found, written.ids, written.stream, written.start, method, "log_probability")
    counted = shown_streams(generation, written.reading.inputs, shown)
    share = shares(generation, counted)
    with probed(model, written.reading.inputs, targets[0]) as run:
        read, again = read_twice(run, targets, generation)
    return TrustedWords(
        words=in_words(written, share, read, again),
        streams=counted,
        share=share,
        read=read,
        reread=again,
        passes=1 + len(targets),
        generation=generation,
    )


def shown_streams(generation: Generation, inputs: Mapping[str, Any], streams: Sequence[str] | None) -> tuple[str, ...]:
    """The inputs that are no text, or those that are named. Raises Misuse where there is none, UnknownName for others."""
    every = generation[0].scores
    if streams is None:
        found = tuple(s for s in every if s in inputs and s not in generation.texts)
        if not found:
            raise Misuse("the model was shown nothing but text; name the streams whose share is asked for with shown=")
        return found
    for name in streams:
        if name not in every:
            raise nearest(name, every, "stream")
    return tuple(streams)


def shares(generation: Generation, shown: Sequence[str]) -> Float[Tensor, " new"]:
    """Σ|R| on some streams over Σ|R| on all, of each token written."""
    whole = torch.stack([generation.of(s).abs().sum(1) for s in generation[0].scores]).sum(0)
    own = torch.stack([generation.of(s).abs().sum(1) for s in shown]).sum(0)
    return torch.where(whole > 0, own / whole.clamp(min=1e-30), 0.0)


def read_twice(
    run: Probed, targets: Sequence[Target], generation: Generation
) -> tuple[Float[Tensor, " new"], Float[Tensor, " new"]]:
    """The log-probability of each token, and that of a run which attends more to what the token rests on.

    Our reading: w weighs the attention of the rows that are written from, at every key; rows are brought back to their sums.
    """
    recording = run.recording
    calls = writing(recording, generation.stream)
    read, again = [], []
    for target, exp in zip(targets, generation, strict=True):
        own = replace(
            run.again, target=Target.make(target).on(recording.model, recording.output), classes=None, rivals=None
        )
        with torch.no_grad():
            read.append(own.y(recording.output).detach().cpu())
            made = own.run([WeighKeys(weights(recording, exp.scores), calls)])
            again.append(own.y(made.output).cpu())
    return torch.cat(read).float(), torch.cat(again).float()


def writing(recording: Recording, stream: str) -> list[int]:
    """The attention calls whose rows are of the text that is written. Raises ModelError where there is none."""
    rows = recording.stream(stream).rows
    inside = torch.zeros(recording.rows, dtype=torch.bool)
    inside[rows] = True
    found = [
        c.index for c in recording.calls if not c.lost and bool(recording.gather(inside[None].float(), c.queries).any())
    ]
    if not found:
        raise ModelError(
            f"no attention was seen in which {stream} looks at anything, so that nothing can be read again"
        )
    return found


def weights(recording: Recording, scores: Mapping[str, Tensor]) -> Float[Tensor, "batch row"]:
    """w / 2 = (1 + R / max|R|) / 2 at every row, 0 to 1: only what w is beside others counts.

    A row that was made of others (a place of a picture of its patches) has what these have together.
    """
    R = recording.zeros()
    for name, own in scores.items():
        R[:, recording.stream(name).rows] = own.to(R).cpu()
    for merge in recording.merges:
        R[:, merge.rows] = (R[:, merge.sources] * (merge.shares != 0)).sum(-1)
    most = R.abs().max()
    return 0.5 + R / (2 * most) if most > 0 else torch.full_like(R, 0.5)


def in_words(written: Written, share: Tensor, read: Tensor, again: Tensor) -> list[TrustedWord]:
    """Tokens brought together to whole words: the mean of their shares, the sum of their log-probabilities."""
    text: Text = written.text
    first = begins(text, written.start)

    def summed(values: Tensor) -> list[float]:
        padded = [0.0] * written.start + values.tolist()
        return [w.score for w in words_of(text, padded) if w.start >= first]

    names = [w.text for w in words_of(text, [0.0] * len(text.tokens)) if w.start >= first]
    count = summed(torch.ones_like(share))
    every = zip(names, summed(share), summed(read), summed(again), count, strict=True)
    return [TrustedWord(name, s / n if n else 0.0, a, b) for name, s, a, b, n in every]


__all__ = ["words_to_trust"]
