"""Does an explainer know which way a word pulls? `zoo/bert-sentiment` on SST, against the label of each word alone.

People labelled every phrase of the Stanford Sentiment Treebank, single words among them. What is explained is the logit of
positive less that of negative, so a score above 0 is for positive. A word scores the sum of its tokens. Per cent of the words
with a side whose score has that side, with 95 % bootstrap intervals, sentences drawn again. `finds`: how often a word with a
side scores higher, by size, than one without, within a sentence.

The data is not ours to ship: `--data` is the folder of the trees (default `../shared/data/sst` beside the repository).

    python benchmarks/word_signs.py --sentences 300            # print the table (minutes)
    python benchmarks/word_signs.py --sentences 300 --write    # and put it into docs/theory.md
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import numpy as np

import regard
from regard.report.theory.html import sign_rows
from regard.theory.data import Labelled, read_treebank

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "sst"
PAGE = measure.ROOT / "docs" / "theory.md"
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "raw_attention": ("raw_attention", {}),
    "alpha_max": ("alpha_max", {}),
    "rollout": ("rollout", {}),
    "gae": ("gae", {}),
    "corrected_attention, signed": ("corrected_attention", {"sign": "signed"}),
    "gradient, mean": ("gradient", {"reduce": "mean"}),
    "gradient, l1": ("gradient", {"reduce": "l1"}),
    "gradient, l2": ("gradient", {"reduce": "l2"}),
    "input_x_gradient": ("input_x_gradient", {}),
    "integrated_gradients": ("integrated_gradients", {}),
    "revised_ig": ("revised_ig", {}),
    "attnlrp": ("attnlrp", {}),
    "occlusion": ("occlusion", {}),
    "lime": ("lime", {}),
}


def main() -> None:
    """Print the table, and write it into the page if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sentences", type=int, default=300)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    whole = read_treebank(asked.data).test
    chosen = [whole[i * len(whole) // asked.sentences] for i in range(min(asked.sentences, len(whole)))]
    reader = regard.load("zoo/bert-sentiment")
    known = {row.name for row in regard.methods()}
    found = {name: scores(reader, chosen, *way) for name, way in WAYS.items() if way[0] in known}
    text = table(chosen, found)
    print(text)
    if asked.write:
        measure.write("word signs", text, PAGE)


def scores(reader: Any, chosen: Sequence[Labelled], method: str, how: dict[str, Any]) -> list[np.ndarray]:
    """The score of every word of each sentence."""
    out = []
    for i, sentence in enumerate(chosen):
        text, spans = written(sentence.words)
        exp = reader.explain(text, target="positive", against="negative", method=method, **how)
        out.append(by_word(exp, spans))
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{method} {i + 1} of {len(chosen)} ")
    return out


def written(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The words as plain English, and where each stands: contractions and stops are closed up, as the model was trained."""
    text, spans = "", []
    for word in words:
        closed = not text or re.fullmatch(r"n't|'s|'re|'ve|'ll|'d|'m|[,.;:!?)%]", word) or text[-1] in "($#"
        text += "" if closed else " "
        spans.append((len(text), len(text) + len(word)))
        text += word
    return text, spans


def by_word(exp: Any, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Each word's sum over the tokens that begin in it."""
    raw, values = exp.inputs["input_ids"][0], exp.scores["input_ids"][0].double().numpy()
    begins = [(a, i) for i, (a, b) in enumerate(raw.offsets) if b > a and not raw.special[i]]
    return np.array([sum(values[i] for a, i in begins if low <= a < high) for low, high in spans])


def table(chosen: Sequence[Labelled], found: dict[str, list[np.ndarray]]) -> str:
    """The table as Markdown."""
    sided = sum(s != 0 for t in chosen for s in t.signs)
    lines = [
        f"{len(chosen)} test sentences of SST-2, {sum(len(t.words) for t in chosen)} words, {sided} of them with a side.\n",
        "| explainer | positive words | negative words | both | finds words with a side |\n|---|---|---|---|---|",
    ]
    own = [np.array(t.signs) for t in chosen]
    rows = sign_rows({name: [*zip(own, of, strict=True)] for name, of in found.items()})
    cells = [(f"`{r['name']}`", r["positive"], r["negative"], r["both"], r["finds"]) for r in rows]
    lines += ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
