"""Maps of a picture under a caption, with known answers: zoo/clip-scenes, scenes of one to four items.

A caption names one item of a scene ("a sandal", "a red bag"); that is what its map should lie on, and the more other items
there are, the harder it is to look nowhere else. By number of items: pointing (the map's largest value on the named item) and
IoU; the area under the probability of the caption, against one that is false by one word, while patches are filled (black, or
the picture's mean colour), the highest first (deletion, low is good) and the lowest first (insertion, high is good); and how
many maps the causal test finds better than chance (p <= 0.05, a share of 0.1).

`interaction` is asked twice: for its map of the patches, and, of a caption that names two items, for each item by the pairs
of its words with the patches. A first-order map is one for both items then, and cannot point at either.

    python benchmarks/captions.py             # print the tables
    python benchmarks/captions.py --write     # and put them into docs/eclip.md
    python benchmarks/captions.py --tiny      # two captions of each kind: a quick check that it runs
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import measure
import torch
from torch import Tensor, nn

import regard
from regard import zoo
from regard.evaluation import Example, Perturbation, Segmentation, accuracies
from regard.evaluation.protocols.perturbation import perturbation
from regard.evaluation.protocols.segmentation import segmentation
from regard.evaluation.statistics import Interval, mean_with_interval
from regard.explanation.explanation import Explanation

PAGE = measure.ROOT / "docs" / "eclip.md"
MODEL = "zoo/clip-scenes"
KINDS = ("item", "colour")
"""Captions that name one item."""
FILLS = ("black", "mean")
PICTURE = "pixel_values"
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "attention_eclip": ("attention_eclip", {}),
    "attention_eclip, softmax": ("attention_eclip", {"loosening": "softmax"}),
    "attention_eclip, A": ("attention_eclip", {"loosening": "attention"}),
    "attention_eclip, λ = 1": ("attention_eclip", {"loosening": "none"}),
    "attention_eclip, two layers": ("attention_eclip", {"layers": 2}),
    "attention_eclip, one head": ("attention_eclip", {"heads": "single"}),
    "legrad": ("legrad", {}),
    "maskclip": ("maskclip", {}),
    "gae": ("gae", {}),
    "corrected_attention, signed": ("corrected_attention", {"sign": "signed"}),
    "rollout": ("rollout", {}),
    "raw_attention": ("raw_attention", {}),
    "attention_grad_cam": ("attention_grad_cam", {}),
    "grad_cam": ("grad_cam", {}),
    "transition_attention": ("transition_attention", {}),
    "bti_token": ("bti_token", {}),
    "bti_head": ("bti_head", {}),
    "revised_ig": ("revised_ig", {}),
    "integrated_gradients": ("integrated_gradients", {}),
    "attnlrp": ("attnlrp", {}),
    "cp_lrp": ("cp_lrp", {}),
    "gim": ("gim", {}),
    "occlusion": ("occlusion", {}),
    "lime, 256 samples": ("lime", {"samples": 256}),
    "interaction, its map": ("interaction", {}),
    "random": ("random", {}),
}
"""Row of the tables -> method and options."""
FIRST = "attention_eclip"


@cache
def reader() -> Any:
    return regard.load(MODEL)


@cache
def data() -> Any:
    return zoo.captions()


class Matched(nn.Module):
    """The model on pictures alone: how well each of some texts fits, as the scores of classes."""

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__()
        self.model, self.config = reader().model, reader().model.config
        made = reader().processor.tokenizer(list(texts), padding=True, return_tensors="pt")
        self.texts = {k: made[k] for k in ("input_ids", "attention_mask")}

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(picture, text)."""
        out: Tensor = self.model(pixel_values=pixel_values, **self.texts).logits_per_image
        return out


@dataclass(frozen=True)
class Asked:
    """A caption of a scene with its false twin, and the pixels of the items that it names."""

    number: int
    picture: Any
    text: str
    twin: str
    region: Tensor
    scene: int
    items: int

    @cached_property
    def example(self) -> Example:
        """The picture alone, for what is filled."""
        reading = reader().read((self.picture, self.text))
        made = dataclasses.replace(
            reading, inputs={PICTURE: reading.inputs[PICTURE]}, raw={PICTURE: reading.raw[PICTURE]}
        )
        return Example(f"caption {self.number}", made, 0, self.region, group=f"scene {self.scene}")


def asked(kinds: Sequence[str], each: int) -> Iterator[Asked]:
    """So many captions of some kinds for each number of items, evenly spread over the scenes."""
    captions = data()
    counts = captions.count[captions.scene]
    wanted = torch.tensor([k in kinds for k in captions.kinds])
    for items in range(1, 5):
        rows = (wanted & (counts == items)).nonzero()[:, 0].tolist()
        for i in rows[:: max(1, len(rows) // each)][:each]:
            scene = int(captions.scene[i])
            yield Asked(
                i, captions.images[scene].numpy(), captions.texts[i], captions.twins[i], captions.regions()[i], scene, items
            )  # fmt: skip


# -- one item named -------------------------------------------------------------------------------------------------------


COLUMNS = ("pointing ↑", "IoU ↑", *(f"{what}, {fill} {arrow}" for fill in FILLS for what, arrow in (
    ("deletion", "↓"), ("insertion", "↑"))), "causal test ↑")  # fmt: skip


def numbers(exp: Explanation, a: Asked, model: nn.Module, kept: dict[Any, Any]) -> dict[str, float]:
    """What each column says of one map."""
    found = {r.metric: r.value for r in segmentation(exp, a.example, Segmentation(), 0) if r.x is None}
    out = {"pointing ↑": found["pointing"], "IoU ↑": found["iou"]}
    for fill in FILLS:
        for what, order, arrow in (("deletion", "positive", "↓"), ("insertion", "negative", "↑")):
            setting = Perturbation("token", fill, order, "true")
            rows = perturbation(model, exp, a.example, setting, explained=0, kept=kept)
            out[f"{what}, {fill} {arrow}"] = next(r.value for r in rows if r.metric == "auc_probability")
    out["causal test ↑"] = float(float(exp.test(0.1).p_value) <= 0.05)
    return out


def explained(a: Asked) -> dict[str, Explanation]:
    """The maps of all ways; those without options share one run, and their tests the random choices."""
    plain = [way for way, (_, options) in WAYS.items() if not options]
    found = reader().explain((a.picture, a.text), method=[WAYS[way][0] for way in plain])
    maps = dict(zip(plain, found, strict=True))
    for way, (method, options) in WAYS.items():
        if options:
            maps[way] = reader().explain((a.picture, a.text), method=method, **options)
    return {way: maps[way] for way in WAYS}


def one_item(each: int) -> dict[int, dict[str, list[tuple[Asked, dict[str, float]]]]]:
    """Number of items -> way -> its captions with their numbers."""
    out: dict[int, dict[str, list[tuple[Asked, dict[str, float]]]]] = {n: {w: [] for w in WAYS} for n in range(1, 5)}
    for a in asked(KINDS, each):
        model = Matched([a.text, a.twin]).eval()
        kept: dict[Any, Any] = {}
        for way, exp in explained(a).items():
            out[a.items][way].append((a, numbers(exp, a, model, kept)))
    return out


def table(found: Mapping[str, Sequence[tuple[Asked, dict[str, float]]]]) -> str:
    """Ways x columns for one number of items: means with intervals; scenes are drawn together."""
    lines = ["| method | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for way, rows in found.items():
        groups = [f"scene {a.scene}" for a, _ in rows]
        cells = (str(mean_with_interval([n[c] for _, n in rows], groups=groups)) for c in COLUMNS)
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_items(found: Mapping[int, Mapping[str, Sequence[tuple[Asked, dict[str, float]]]]]) -> str:
    """Pointing alone: ways x numbers of items, and what is lost from one to four."""
    lines = ["| method | 1 item | 2 items | 3 items | 4 items |", "|---|---|---|---|---|"]
    for way in WAYS:
        cells = [_pointing(found[n][way]) for n in range(1, 5)]
        lines.append(f"| {way} | " + " | ".join(str(c) for c in cells) + " |")
    return "\n".join(lines)


def _pointing(rows: Sequence[tuple[Asked, dict[str, float]]]) -> Interval:
    return mean_with_interval([n["pointing ↑"] for _, n in rows], groups=[f"scene {a.scene}" for a, _ in rows])


# -- two items named ------------------------------------------------------------------------------------------------------


def two_items(each: int) -> str:
    """Of captions that name two items, which item do a word's pairs, and one map for both, point at?"""
    captions = data()
    found: dict[int, dict[str, list[tuple[str, float]]]] = {}
    for a in asked(("pair",), each):
        regions = item_regions(captions, a)
        exp = reader().explain((a.picture, a.text), method="interaction")
        between = exp.between("input_ids", PICTURE)[0]
        rest = {way: reader().explain((a.picture, a.text), method=m, **o) for way, (m, o) in WAYS.items() if way in FEW}
        for words, region in regions:
            tokens = tokens_of(exp, words)
            own = {"interaction, pairs": between[tokens].sum(0)}
            own |= {way: e.scores[PICTURE][0] for way, e in rest.items()}
            for way, scores in own.items():
                hit = points_at(scores, region)
                found.setdefault(a.items, {}).setdefault(way, []).append((f"scene {a.scene}", hit))
    lines = ["| method | " + " | ".join(f"{n} items" for n in sorted(found)) + " |", "|---" * (1 + len(found)) + "|"]
    for way in ("interaction, pairs", *FEW):
        cells = [
            mean_with_interval([h for _, h in found[n][way]], groups=[s for s, _ in found[n][way]])
            for n in sorted(found)
        ]
        lines.append(f"| {way} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


FEW = ("attention_eclip", "legrad", "gae", "maskclip", "occlusion", "interaction, its map", "random")


def item_regions(captions: Any, a: Asked) -> list[tuple[tuple[str, ...], Tensor]]:
    """The words of each named item, and its pixels."""
    out = []
    for quarter in captions.named[a.number].nonzero()[:, 0].tolist():
        words = (captions.colour_names[int(captions.colours[a.scene, quarter])],
                 captions.item_names[int(captions.items[a.scene, quarter])])  # fmt: skip
        out.append((words, captions.masks[a.scene, quarter]))
    return out


def tokens_of(exp: Explanation, words: Sequence[str]) -> list[int]:
    """The tokens of an item's name and colour, side by side in the caption."""
    raw: Any = exp.inputs["input_ids"][0]
    spelled = [raw.text[s:e].lower() for s, e in raw.offsets]
    at = next(
        i for i in range(len(spelled) - 1) if spelled[i] == words[0] and words[1].lower().startswith(spelled[i + 1])
    )
    return [i for i in range(at, at + len(words[1].split()) + 1) if not raw.special[i]]


def points_at(scores: Tensor, region: Tensor) -> float:
    """Whether the patch with the largest score holds any of a region."""
    side = round(len(scores) ** 0.5)
    size = region.shape[0] // side
    share = region.view(side, size, side, size).float().mean((1, 3)).flatten()
    return float(share[int(scores.argmax())] > 0)


# -- principles -----------------------------------------------------------------------------------------------------------


def principles(each: int) -> str:
    """Zero-shot accuracy of the model and of its one-head twin, and the map's pointing where either is right or wrong."""
    captions = data()
    texts = list(captions.prompts)
    chosen = (captions.count == 1).nonzero()[:, 0].tolist()[:each]
    lines = [
        "| method | model | explained model | same first class | pointing, right | pointing, wrong |",
        "|---" * 6 + "|",
    ]
    for way in ("attention_eclip", "attention_eclip, one head"):
        method, options = WAYS[way]
        found, labels, hits = [], [], []
        for scene in chosen:
            quarter = int((captions.items[scene] >= 0).int().argmax())
            label = int(captions.items[scene, quarter])
            exp = reader().explain((captions.images[scene].numpy(), texts), target=label, method=method, **options)
            found.append(exp)
            labels.append(label)
            hits.append(points_at(exp.scores[PICTURE][0], captions.masks[scene, quarter]))
        both = accuracies(found, labels)
        first = [
            e.receipt.predicted if e.receipt.explained_model is None else e.receipt.explained_model.predicted
            for e in found
        ]
        right = [int(p) == y for p, y in zip(first, labels, strict=True)]
        sides = [
            mean_with_interval([h for h, r in zip(hits, right, strict=True) if r == want]) for want in (True, False)
        ]
        lines.append(f"| {way} | {both.own} | {both.explained} | {both.same} | " + " | ".join(map(str, sides)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--each", type=int, default=20, help="captions for each number of items")
    for name in ("tiny", "write"):
        parser.add_argument(f"--{name}", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    each = 2 if given.tiny else given.each
    found = one_item(each)
    out = {"pointing-by-items": by_items(found)}
    out |= {f"captions-{n}": table(found[n]) for n in found}
    out |= {"two-items": two_items(each), "principles": principles(each)}
    for name, text in out.items():
        print(f"\n## {name}\n\n{text}", flush=True)
        if given.write:
            measure.write(name, text, PAGE)


if __name__ == "__main__":
    main()
