"""Which words of a caption rest on the picture, and where: zoo/vlm-scenes, scenes of one to four items, described by the model.

Pointing, word by word: a word for an item, its colour or its place should rest on that item. A hit is a map whose largest
patch holds a pixel of it; only words that are true of the item they speak of are asked. In scenes of two items and more, so
that there is something else to point at.

Words to trust: is a word in the scene? Asked of captions with one false word in the place of a true one, read to the model
word by word, and of what the model itself writes. Scores: the share of its relevance that lies on the picture, how its
log-probability changes when it is read again, and, beside them, the log-probability itself, which needs no explanation.
AUROC, false against true words of the same kind; intervals are 95 % bootstrap, words of one scene drawn together.

    python benchmarks/spoken.py             # print the tables
    python benchmarks/spoken.py --write     # and put them into docs/vlm.md; --only NAME makes one of them
    python benchmarks/spoken.py --tiny      # two scenes: a quick check that it runs
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import measure
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

import regard
from regard import zoo
from regard.evaluation.statistics import mean_with_interval

PAGE = measure.ROOT / "docs" / "vlm.md"
MODEL = "zoo/vlm-scenes"
PICTURE = "pixel_values"
POINTING = ("gae", "attnlrp", "gim", "token_activation_map", "raw_attention", "random")
MORE = ("corrected_attention", "rollout")
"""Beyond those that were asked for."""
TRUST = ("attnlrp", "gae", "random")
KINDS = ("item", "colour", "place")
TABLES = ("pointing-by-word", "words-read-out", "words-written")
LENGTH = 40
DRAWS = 1000


@cache
def reader() -> Any:
    """The model."""
    return regard.load(MODEL)


@cache
def data() -> Any:
    """Its scenes."""
    return zoo.answers()


def captions(each: int, *, several: bool) -> list[int]:
    """Requests for captions, so many for each number of items. several: of two items and more."""
    told = data()
    counts, wanted = told.count[told.scene], told.of_kind("caption")
    out = []
    for items in range(2 if several else 1, 5):
        rows = (wanted & (counts == items)).nonzero()[:, 0].tolist()
        out += rows[:: max(1, len(rows) // each)][:each]
    return out


def asked(row: int) -> tuple[Any, str]:
    """A scene and what is asked of it."""
    told = data()
    return told.images[int(told.scene[row])].numpy(), told.prompts[row]


# -- pointing -------------------------------------------------------------------------------------------------------------


def holds(scores: Tensor, region: Tensor) -> float:
    """Whether the patch with the largest score holds any of a region."""
    side = round(len(scores) ** 0.5)
    size = region.shape[0] // side
    share = region.view(side, size, side, size).float().mean((1, 3)).flatten()
    return float(share[int(scores.argmax())] > 0)


def pointing(each: int) -> str:
    """Methods x kinds of words."""
    told = data()
    rows = captions(each, several=True)
    lines = ["| method | item | colour | place | words |", "|---" * 5 + "|"]
    for method in (*POINTING, *MORE):
        found: dict[str, list[tuple[str, float]]] = {kind: [] for kind in KINDS}
        try:
            for row in rows:
                written = reader().explain_generation(asked(row), LENGTH, method)
                for word, exp in zip(told.words(row, written.text), written, strict=False):
                    if word.true and word.region is not None:
                        hit = holds(exp.scores[PICTURE][0], word.region)
                        found[word.kind].append((f"scene {int(told.scene[row])}", hit))
        except regard.RegardError as error:
            lines.append(f"| {method} | {error} | | | |")
            continue
        cells = [mean_with_interval([h for _, h in found[k]], groups=[s for s, _ in found[k]]) for k in KINDS]
        lines.append(f"| {method} | {' | '.join(map(str, cells))} | {sum(map(len, found.values()))} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


# -- words to trust -------------------------------------------------------------------------------------------------------


class Scored(NamedTuple):
    """A word: its kind, whether it is in the scene, its scene, and what each score says."""

    kind: str
    there: bool
    scene: str
    scores: dict[str, float]


def told_falsely(row: int) -> Iterator[tuple[str, set[int]]]:
    """Captions of a scene to be read to the model, and which of their words are asked: the true one, the false ones' words."""
    told = data()
    yield told.texts[row], {i for i, w in enumerate(told.words(row)) if w.kind in KINDS}
    for twin in told.twins[row]:
        yield twin.text, {twin.word}


def read_out(method: str, rows: Sequence[int]) -> list[Scored]:
    """Words of captions that are read to the model: true ones, and one false one in each twin."""
    return [s for row in rows for text, at in told_falsely(row) for s in scored(method, row, text, at)]


def written(method: str, rows: Sequence[int]) -> list[Scored]:
    """Words that the model writes by itself."""
    return [s for row in rows for s in scored(method, row, None, None)]


def scored(method: str, row: int, text: str | None, at: set[int] | None) -> Iterator[Scored]:
    """The words of a caption, those at some places or all, with their scores."""
    told = data()
    found = reader().words_to_trust(asked(row), text, method, max_new_tokens=LENGTH)
    words = told.words(row, found.generation.text)
    every = zip(words, found.share.tolist(), found.read.tolist(), found.reread.tolist(), strict=False)
    for i, (word, share, read, again) in enumerate(every):
        if word.kind in KINDS and (at is None or i in at):
            scores = {"share": share, "read again": again - read, "log-probability": read}
            yield Scored(word.kind, bool(word.true), f"scene {int(told.scene[row])}", scores)


def auroc(words: Sequence[Scored], score: str) -> str:
    """AUROC of true words against false ones, with its interval; – where all are one or the other."""
    there = np.array([w.there for w in words])
    values = np.array([w.scores[score] for w in words])
    if len({*there.tolist()}) < 2:
        return "–"
    scenes = sorted({w.scene for w in words})
    places = {s: [i for i, w in enumerate(words) if w.scene == s] for s in scenes}
    draw, drawn = np.random.default_rng(0), []
    for _ in range(DRAWS):
        at = [i for s in draw.choice(len(scenes), len(scenes)) for i in places[scenes[s]]]
        if len({*there[at].tolist()}) == 2:
            drawn.append(roc_auc_score(there[at], values[at]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{roc_auc_score(there, values):.3g} [{low:.3g}, {high:.3g}]"


def trust(found: Mapping[str, Sequence[Scored]]) -> str:
    """Methods and scores x kinds of words."""
    lines = ["| method | score | all words | item | colour | place |", "|---" * 6 + "|"]
    lines += [line(method, score, words) for method, words in found.items() for score in ("share", "read again")]
    lines.append(line("none", "log-probability", next(iter(found.values()))))
    words = next(iter(found.values()))
    counts = [f"{sum(w.there for w in s)} true, {sum(not w.there for w in s)} false" for s in by_kind(words)]
    return "\n".join([*lines, f"| | words | {' | '.join(counts)} |"])


def line(method: str, score: str, words: Sequence[Scored]) -> str:
    """A row of the table."""
    return f"| {method} | {score} | {' | '.join(auroc(some, score) for some in by_kind(words))} |"


def by_kind(words: Sequence[Scored]) -> list[list[Scored]]:
    """All words, and those of each kind."""
    return [[*words], *([w for w in words if w.kind == kind] for kind in KINDS)]


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--each", type=int, default=6, help="scenes of each number of items")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES)
    for name in ("tiny", "write"):
        parser.add_argument(f"--{name}", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    each = 1 if given.tiny else given.each
    rows = captions(each, several=False)
    own = captions(1000, several=False)[: 4 if given.tiny else None]
    made = {
        "pointing-by-word": lambda: pointing(each),
        "words-read-out": lambda: trust({m: read_out(m, rows) for m in TRUST}),
        "words-written": lambda: trust({m: written(m, own) for m in TRUST[:2]}),
    }
    for name in given.only:
        text = made[name]()
        print(f"\n## {name}\n\n{text}", flush=True)
        if given.write:
            measure.write(name, text, PAGE)


if __name__ == "__main__":
    main()
