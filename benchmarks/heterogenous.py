"""Who looks at whom, and does it follow: methods on questions about regions and on found objects: docs/heterogenous.md.

    python benchmarks/heterogenous.py                  # print the tables
    python benchmarks/heterogenous.py --write          # and put them into docs/heterogenous.md
    python benchmarks/heterogenous.py --only objects   # some sections only

`zoo/lxmert-scenes` (two streams that look at each other) and `zoo/detr-scenes` (queries that look at a picture). One thread;
the numbers do not depend on the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import measure
import torch
from results import Column, Variant, cell, names, table
from torch import Tensor
from transformers import AutoModelForObjectDetection, AutoTokenizer, LxmertForQuestionAnswering

import regard
from regard import Baseline, Explanation, Site, Target, zoo
from regard.attribution.attention.edge_rules import EDGES
from regard.attribution.context import Context, Relevance
from regard.errors import Misuse
from regard.evaluation import (
    Absence,
    Necessity,
    Objects,
    Pointing,
    QuestionPerturbation,
    Redirection,
    RegionQuestions,
    Row,
    Segmentation,
    Sufficiency,
    differences,
    found_by,
    logic,
    summaries,
)
from regard.evaluation.protocols.box_matching import Boxes, predictions

PAGE = measure.ROOT / "docs" / "heterogenous.md"
ANSWERS = "question_answering_score"
REGIONS, WORDS = "visual_feats", "input_ids"
KNOWN = "*the known regions and word*"
SIGNS, HOPS = ("positive", "absolute", "signed"), ("all", "one")
RAW = "raw cross-attention"


def raw_cross_attention(context: Context) -> Relevance:
    """A of the last call in which the stream that is read looks at another one, mean over heads; nothing else."""
    recording, read = context.recording, next(iter(context.readout))
    own = recording.ends(recording.calls[read])[0]
    across = [c for c in recording.calls if c.index <= read and recording.ends(c)[0] == own != recording.ends(c)[1]]
    call = across[-1]
    moved = call.pull(recording.gather(context.r, call.queries), EDGES["mean"])
    return recording.scatter(moved, call.keys)


def variants(more: Sequence[Variant]) -> list[Variant]:
    """The rows of the tables."""
    options = {f"heterogenous, {s}, {h}": {"sign": s, "hops": h} for s in SIGNS for h in HOPS}
    options |= {f"heterogenous, {s}, all, complete": {"sign": s, "correction": "complete"} for s in SIGNS}
    return [
        *(Variant(label, "heterogenous", o) for label, o in options.items()),
        Variant("gae", "gae", {}),
        Variant("gae, bimodal", "gae", {"form": "bimodal"}),
        Variant("rollout", "rollout", {}),
        Variant(RAW, RAW, {}),
        *(Variant(m, m, {}) for m in ("raw_attention", "gradient", "input_x_gradient", "revised_ig")),
        *(Variant(m, m, {}) for m in ("attnlrp", "cp_lrp", "gim")),
        *more,
        Variant("random", "random", {}),
    ]


ZERO = {"site": Site.input(), "steps": 64}
QUESTIONS = variants(
    [
        Variant("revised_ig, region features", "revised_ig", ZERO | {"baseline": {REGIONS: Baseline.zero()}}),
        Variant("heterogenous, positive, all, guided by a contrast", "heterogenous", {"guide": "contrast"}),
    ]
)
OBJECTS = variants(
    [Variant("revised_ig, pixels", "revised_ig", ZERO), *(Variant(m, m, {}) for m in ("grad_cam", "odam"))]
)

# -- questions ---------------------------------------------------------------------------------------------------------


class Scenes:
    """zoo/lxmert-scenes: its bundled questions; behind them, of each absent one, the same about an item that is there."""

    def __init__(self) -> None:
        home, bundled = zoo.folder("zoo/lxmert-scenes"), zoo.questions()
        self.model = LxmertForQuestionAnswering.from_pretrained(home).eval()
        questions, absences = bundled.counterparts()
        self.data = asked(questions, bundled.redirections(), absences, home, self.model.config.label2id)
        self.answered = {name for name, absent in zip(self.data.names, bundled.absent, strict=False) if not absent}
        self.naming = {
            n for n, at in zip(self.data.names, self.data.asked.tolist(), strict=True) if at >= 0
        } & self.answered
        self.maps = {v.label: self.explained(v) for v in QUESTIONS}

    def explained(self, variant: Variant) -> Explanation:
        """One method's maps of all questions, for the predicted answers."""
        made = regard.explain(
            self.model, dict(self.data.inputs), Target.logit(output=ANSWERS), variant.method, **variant.options
        )
        assert isinstance(made, Explanation)
        return made

    def known(self) -> Explanation:
        """A map that knows: 2 on the source, 1 on the other evidence, 1 on the asked word."""
        data, tokens = self.data, torch.arange(self.data.special.shape[1])
        scores = {REGIONS: data.evidence.float() + data.source.float(), WORDS: (tokens == data.asked[:, None]).float()}
        return dataclasses.replace(self.maps["random"], scores=scores)

    def rows(self, setting: Any) -> list[Row]:
        """Every method, and behind them the map that knows: questions that have an answer, or pairs."""
        maps = self.maps | {KNOWN: self.known()}
        rows = [row for label, e in maps.items() for row in self.judged(label, e, setting)]
        names = self.naming if setting == LOOKS else self.answered
        return [r for r in rows if r.example in names or " > " in r.example]

    def judged(self, label: str, explanation: Explanation, setting: Any) -> list[Row]:
        """One method's rows; errors where it has no such map."""
        try:
            return logic(self.model, explanation, self.data, setting, label)
        except Misuse:
            error = "it follows no paths that begin at a word"
            return [Row(setting, name, error=error, title=label) for name in self.data.names]


def asked(
    questions: zoo.Questions, redirections: Tensor, absences: Tensor, home: Any, classes: Mapping[str, int]
) -> RegionQuestions:
    """The zoo's questions as the protocols take them; an empty region is the mean of all boxes of clutter."""
    words = AutoTokenizer.from_pretrained(home)(
        list(questions.texts), padding=True, return_tensors="pt", return_token_type_ids=False,
        return_special_tokens_mask=True,
    )  # fmt: skip
    special, clutter = words.pop("special_tokens_mask").bool(), questions.items < 0
    return RegionQuestions(
        dict(words) | questions.inputs(),
        tuple(f"q{i}" for i in range(len(questions))),
        torch.tensor([classes.get(answer, -1) for answer in questions.answers]),
        questions.evidence, questions.source, questions.asked, special, redirections, absences,
        empty={REGIONS: questions.features[clutter].mean(0), "visual_pos": questions.boxes[clutter].mean(0)},
        output=ANSWERS,
    )  # fmt: skip


@cache
def scenes() -> Scenes:
    return Scenes()


@cache
def rows_of(setting: Any) -> list[Row]:
    """Several sections tell of them."""
    return scenes().rows(setting)


MASKED, EMPTIED, WORD = (Necessity(k="evidence"), Necessity(k="evidence", away="empty"), Necessity(k=1, unit="token"))
LOOKS = Pointing(of="asked")
ENOUGH, ENOUGH_EMPTIED = Sufficiency(k="evidence"), Sufficiency(k="evidence", away="empty")
AREAS = {
    f"{head}, {order} {arrow}": QuestionPerturbation(order=order, stream=stream)
    for head, stream in (("regions", REGIONS), ("words", WORDS))
    for order, arrow in (("positive", "↓"), ("negative", "↑"))
}


def section(columns: Sequence[Column]) -> str:
    """A table in which the map that knows has its own last line, out of the contest."""
    own = [Column(c.head, [r for r in c.rows if r.title != KNOWN], c.metric) for c in columns]
    known = [[s for s in summaries([r for r in c.rows if r.title == KNOWN]) if s.metric == c.metric] for c in columns]
    last = [cell(found[0].value if found else None, "") for found in known]
    lines = [table(own)] + ([f"| {KNOWN} | {' | '.join(last)} |"] if any(known) else [])
    return "\n".join(lines) + "\n\n" + names(own)


def regions() -> str:
    """Pointing, necessity, sufficiency."""
    return section([
        Column("pointing ↑", rows_of(Pointing()), "pointing"),
        Column("AP of the evidence ↑", rows_of(Pointing()), "ap"),
        Column("necessity ↑", rows_of(MASKED), "changed"),
        Column("necessity, empty ↑", rows_of(EMPTIED), "changed"),
        Column("sufficiency ↑", rows_of(ENOUGH), "stays"),
        Column("sufficiency, empty ↑", rows_of(ENOUGH_EMPTIED), "stays"),
    ])  # fmt: skip


def moves() -> str:
    """Redirection and absence."""
    return section([
        Column("redirected ↑", rows_of(Redirection()), "redirected"),
        Column("shift ↑", rows_of(Redirection()), "shift"),
        Column("entropy, absent", rows_of(Absence()), "entropy_absent"),
        Column("entropy, present", rows_of(Absence()), "entropy_present"),
        Column("difference ↑", rows_of(Absence()), "difference"),
    ])  # fmt: skip


def words() -> str:
    """The text's map."""
    return section([
        Column("both asked words at the top ↑", rows_of(Redirection()), "marked"),
        Column("asked word looks at the source ↑", rows_of(LOOKS), "pointing"),
        Column("necessity of a word ↑", rows_of(WORD), "changed"),
        *(Column(head, rows_of(p), "auc_probability") for head, p in AREAS.items() if p.stream == WORDS),
    ])  # fmt: skip


def kinds() -> str:
    """Pointing, each kind of question by itself."""
    of = dict(zip(scenes().data.names, zoo.questions().kinds, strict=False))
    rows = rows_of(Pointing())
    asked = dict.fromkeys(of[r.example] for r in rows)
    return section([Column(f"{kind} ↑", [r for r in rows if of[r.example] == kind], "pointing") for kind in asked])


def areas() -> str:
    """Regions taken away one by one."""
    return section([Column(h, rows_of(p), "auc_probability") for h, p in AREAS.items() if p.stream == REGIONS])


def hops() -> str:
    """One hop less all hops: how far the maps are apart, and paired differences of what they are judged by."""
    metrics = (
        ("pointing", Pointing(), "pointing"), ("necessity", MASKED, "changed"), ("sufficiency", ENOUGH, "stays"),
        ("shift", Redirection(), "shift"), ("regions, positive", AREAS["regions, positive ↓"], "auc_probability"),
        ("necessity of a word", WORD, "changed"), ("words, positive", AREAS["words, positive ↓"], "auc_probability"),
    )  # fmt: skip
    lines = [["one − all", "regions' map", "words' map", *(head for head, _, _ in metrics)]]
    lines.append(["---"] * len(lines[0]))
    for sign in SIGNS:
        one, every = (f"heterogenous, {sign}, {h}" for h in ("one", "all"))
        found = [
            differences([r for r in rows_of(p) if r.title in (one, every)], m, against=every) for _, p, m in metrics
        ]
        apart = [f"{apart_by(scenes().maps[one], scenes().maps[every], s):.2g}" for s in (REGIONS, WORDS)]
        lines.append([sign, *apart, *(cell(d[0].value, "") for d in found)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def apart_by(one: Explanation, every: Explanation, stream: str) -> float:
    """The mean over questions of |one − all| / |all|, sums over a stream's tokens."""
    a, b = one.scores[stream], every.scores[stream]
    return float(((a - b).abs().sum(1) / b.abs().sum(1)).mean())


# -- objects -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def found_in(model: Any, inputs: Mapping[str, Tensor], scenes: zoo.Detections) -> Tensor:
    """Which query found each item, -1 for none: (scene, slot)."""
    out = model(**inputs)
    here = scenes.labels >= 0
    true = [Boxes(b[h], k[h]) for b, k, h in zip(scenes.boxes, scenes.labels, here, strict=True)]
    queries = torch.full_like(scenes.labels, -1)
    for i, taken in enumerate(found_by(predictions(out.logits, out.pred_boxes), true)):
        queries[i, : len(taken)] = torch.tensor(taken)
    return queries


def objects() -> str:
    """zoo/detr-scenes: one map for each item that a query found."""
    model = AutoModelForObjectDetection.from_pretrained(zoo.folder("zoo/detr-scenes")).eval()
    scenes = zoo.detections()
    inputs = {"pixel_values": scenes.images.permute(0, 3, 1, 2).float() / 127.5 - 1}
    given = Objects(scenes.labels, scenes.masks, found_in(model, inputs, scenes))
    rows: list[Row] = []
    for v in OBJECTS:
        maps = regard.explain(model, inputs, given.targets(), v.method, **v.options)
        assert isinstance(maps, list)
        rows += given.rows(maps, Segmentation(stream="pixel_values"), v.label)
    shown = {"pointing ↑": "pointing", "IoU, mean of the sweep ↑": "iou_sweep_mean", "IoU, best of the sweep ↑": "iou_best",
             "IoU, Otsu ↑": "iou_otsu", "IoU, mean of the map ↑": "iou", "AP ↑": "ap"}  # fmt: skip
    there, found = int((scenes.labels >= 0).sum()), int((given.queries >= 0).sum())
    text = section([Column(head, rows, metric) for head, metric in shown.items()])
    return (
        f"{text}\n- {found} of {there} items were found (class right, IoU of boxes 0.5 or more); the others have no map"
    )


SECTIONS: dict[str, Callable[[], str]] = {
    "regions": regions, "kinds": kinds, "areas": areas, "moves": moves, "words": words, "hops": hops, "objects": objects,
}  # fmt: skip


def main() -> None:
    """Run the sections that are asked for; write them if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    regard.register(RAW, raw_cross_attention)
    started = time.process_time()
    for name in given.only:
        text = SECTIONS[name]()
        print(f"\n## {name} ({time.process_time() - started:.0f} s so far)\n\n{text}", flush=True)
        if given.write:
            measure.write(name, text, PAGE)


if __name__ == "__main__":
    main()
