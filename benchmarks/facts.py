"""Does the map point at the one token that the answer can be known from? `zoo/llama-facts`, 400 prompts, every method.

Protocol `facts/top-1/logit/answered-right`: the logit of the right answer as the next token after the prompt is explained,
on prompts that the model answers rightly; a hit is a map whose largest score, of all tokens but padding, lies on the known
source: the one token of the prompt that is the answer word. `<bos>`, stops, the question and the read-out position compete
like any other token; scores are taken as they are, with their sign. Three more columns change one choice each:

- `facts/top-1-words/logit/answered-right`: `<bos>`, stops and the read-out position (the last token) do not compete, for
  methods that give these a share by construction;
- `facts/top-1-statement/logit/answered-right`: a hit is anywhere in the statement that the source stands in, its full stop
  included (in copying: the source and the item before it);
- `facts/top-1/contrast/answered-right`: the logit of the answer less that of a wrong answer that stands in the prompt too.

Intervals are 95 % bootstrap over prompts.

    python benchmarks/facts.py             # print the table
    python benchmarks/facts.py --write     # and put it into docs/known-answers.md
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import measure
import torch
from torch import Tensor

import regard
from regard import Target, zoo
from regard.errors import Misuse
from regard.evaluation.statistics import mean_with_interval
from regard.zoo import Fact

PAGE = measure.ROOT / "docs" / "known-answers.md"
CHOICES = {"sign": ("positive", "negative", "absolute", "signed"), "reduce": ("mean", "l1", "l2")}
SAME = {"alpha_avg": "raw_attention", "corrected_attention, positive": "gae"}
"""Rows left out, for they are another row by another name."""
STOPS = (".", "?", ":", ";", "<bos>")


@dataclass(frozen=True)
class Batch:
    """Prompts of one kind, padded on the left: tensors (b, n), and what of them counts."""

    inputs: dict[str, Tensor]
    tokens: list[list[str]]
    source: Tensor
    statement: Tensor
    answer: Tensor
    distractor: Tensor
    right: Tensor

    @property
    def real(self) -> Tensor:
        """bool (b, n): no padding."""
        return self.inputs["attention_mask"].bool()

    @property
    def at_source(self) -> Tensor:
        """bool (b, n): the source."""
        return torch.nn.functional.one_hot(self.source, self.real.shape[1]).bool()

    @property
    def words(self) -> Tensor:
        """bool (b, n): no padding, no stop, no <bos>, and not the last token."""
        stop = torch.tensor([[t in STOPS for t in row] for row in self.tokens])
        return self.real & ~stop & (torch.arange(stop.shape[1]) < stop.shape[1] - 1)


def batch_of(reader: regard.reader.Reader, facts: Sequence[Fact]) -> Batch:
    reading = reader.read([f.prompt for f in facts])
    inputs, ids = reading.inputs, reader.processor.convert_tokens_to_ids
    with torch.no_grad():
        predicted = reader.model(**inputs).logits[:, -1].argmax(-1)
    padding = (inputs["attention_mask"] == 0).sum(1)
    answer = torch.tensor([ids(f.answer) for f in facts])
    statement = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    for row, f, pad in zip(statement, facts, padding.tolist(), strict=True):
        row[[pad + i for i in f.evidence]] = True
    return Batch(
        inputs=inputs,
        tokens=[text.tokens for text in reading.raw["input_ids"]],
        source=torch.tensor([f.source for f in facts]) + padding,
        statement=statement,
        answer=answer,
        distractor=torch.tensor([ids(f.distractor) for f in facts]),
        right=predicted == answer,
    )


def variants() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Every method of the table: its row's title, its name, and its options; one row for each choice of an option, and for the
    complete correction and a guide."""
    for method in regard.methods():
        choice = next((c for c in CHOICES if c in method.options), None)
        for value in CHOICES[choice] if choice else ("",):
            title = f"{method.name}, {value}" if choice else method.name
            if title not in SAME:
                shown = "gae = corrected_attention, positive" if title == "gae" else title
                yield shown, method.name, {choice: value} if choice else {}
    for sign in CHOICES["sign"]:
        yield f"corrected_attention, {sign}, complete", "corrected_attention", {"sign": sign, "correction": "complete"}
    yield "gae, guided by a contrast", "gae", {"guide": "contrast"}


def scores(reader: regard.reader.Reader, batch: Batch, target: Target, method: str, options: dict[str, str]) -> Tensor:
    """The map (b, n) of each prompt of a batch."""
    exp: Any = regard.explain(reader.model, batch.inputs, target, method=method, **options)
    return exp.scores["input_ids"].cpu()


def top(maps: Tensor, batch: Batch, competing: Tensor) -> Tensor:
    """Where the largest score of those competing lies, for the prompts answered rightly: one-hot, bool (b', n)."""
    largest = maps.masked_fill(~competing, -torch.inf).argmax(1)
    return torch.nn.functional.one_hot(largest, maps.shape[1]).bool()[batch.right]


def cells(batches: Sequence[Batch], logit: Sequence[Tensor], contrast: Sequence[Tensor]) -> list[str]:
    """The cells of a method's row, from its maps for either target."""

    def hits(maps: Sequence[Tensor], competing: str, on: str) -> list[Tensor]:
        tops = [top(m, b, getattr(b, competing)) for m, b in zip(maps, batches, strict=True)]
        return [(t & getattr(b, on)[b.right]).any(1).float() for t, b in zip(tops, batches, strict=True)]

    kinds = hits(logit, "real", "at_source")
    others = (
        kinds,
        hits(logit, "words", "at_source"),
        hits(logit, "real", "statement"),
        hits(contrast, "real", "at_source"),
    )
    return [cell(v) for v in (*kinds, *map(torch.cat, others))]


def cell(hits: Tensor) -> str:
    """Mean and 95 % bootstrap interval, in per cent."""
    value, low, high = (100 * v for v in mean_with_interval(hits.tolist()))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    """Print the table, and write it into docs/known-answers.md if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    facts, reader = zoo.facts(), regard.load("zoo/llama-facts")
    kinds = list(dict.fromkeys(f.kind for f in facts))
    batches = [batch_of(reader, [f for f in facts if f.kind == kind]) for kind in kinds]
    columns = ["method", *kinds, "all", "all, words only", "all, statement", "all, contrast"]
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    left_out = []
    for title, method, options in variants():
        try:
            logit = [scores(reader, b, Target.next_token(b.answer), method, options) for b in batches]
            contrast = [
                scores(reader, b, Target.contrast(b.answer, b.distractor, position=-1), method, options)
                for b in batches
            ]
        except Misuse as e:
            left_out.append(f"`{title}` ({e})")
            continue
        rows.append(f"| {title} | {' | '.join(cells(batches, logit, contrast))} |")
    table = "\n".join(rows)
    right = "; ".join(f"{k} {int(b.right.sum())} of {len(b.right)}" for k, b in zip(kinds, batches, strict=True))
    note = f"Prompts answered rightly: {right}. Per cent of these, with 95 % bootstrap intervals."
    if left_out:
        note += f" Not applicable: {', '.join(left_out)}."
    print(f"{table}\n\n{note}")
    if write:
        measure.write("facts", f"{table}\n\n{note}", PAGE)


if __name__ == "__main__":
    main()
