"""How little it takes to rewrite what `zoo/vit-scenes` says of its 200 bundled scenes, and what gives rewritten files away.

Success is that of the 8-bit files, read again. The first table has all 200 scenes at one budget, for three choices of the new
class. The others are of PICTURES scenes of one item, the classes in turn, each rewritten to every other class with the smallest
budget that suffices: `regard rewrite FOLDER --report`.

    python benchmarks/rewriting.py             # print the tables
    python benchmarks/rewriting.py --write     # and put them into docs/rewriting.md
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import measure
import torch

import regard
from regard import zoo
from regard.editing.robustness import SIZES, Robustness, robustness
from regard.editing.suspicion import MEANINGS
from regard.evaluation.statistics import mean_with_interval

PAGE = measure.ROOT / "docs" / "rewriting.md"
BUDGET = 4 / 255
TOGETHER = 50
WAYS: list[tuple[str, str, dict[str, Any]]] = [
    ("second likeliest", "L∞, 4/255", {}),
    ("drawn at random", "L∞, 4/255", {}),
    ("least likely", "L∞, 4/255", {}),
    ("drawn at random", "L∞, 4/255, the old class kept second", {"keep": True}),
    ("drawn at random", "L∞, 4/255, within the tokens of the new class", {"within": "internal"}),
    ("drawn at random", "L2, 0.5", {"norm": "l2", "budget": 0.5}),
]


def at_one_budget() -> str:
    """All scenes, rewritten in several ways."""
    scenes, reader = zoo.scenes(), regard.load("zoo/vit-scenes")
    images = list(scenes.images)
    with torch.no_grad():
        order = reader.model(**reader.read(images).inputs).logits.argsort(-1, descending=True)
    drawn = order.gather(1, torch.randint(1, 8, (len(order), 1), generator=torch.Generator().manual_seed(0)))[:, 0]
    to = {"second likeliest": order[:, 1], "drawn at random": drawn, "least likely": order[:, -1]}
    lines = [
        "| new class | budget | success, % | PSNR, dB | SSIM | its probability | queries |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, budget, how in WAYS:
        parts = []
        for i in range(0, len(images), TOGETHER):
            some = slice(i, i + TOGETHER)
            more = how | ({"keep": order[some, 0]} if "keep" in how else {})
            parts.append(reader.rewrite(images[some], to[name][some], **({"budget": BUDGET, "maps": False} | more)))
        rows = {
            k: torch.cat([getattr(p, k) for p in parts]) for k in ("success", "psnr", "ssim", "probability", "queries")
        }
        done = rows["success"]
        value, low, high = (100 * v for v in mean_with_interval(done.float().tolist()))
        of = {k: float(v.double()[done].mean()) for k, v in rows.items()}
        lines.append(
            f"| {name} | {budget} | {value:.1f} [{low:.1f}, {high:.1f}] | {of['psnr']:.1f} | {of['ssim']:.3f} | "
            f"{of['probability']:.2f} | {float(rows['queries'].double().mean()):.0f} |"
        )
        print(lines[-1], flush=True)
    lines += ["", "200 scenes; success with a 95 % bootstrap interval; PSNR, SSIM and the probability are means over "
              "those that were rewritten; queries over all."]  # fmt: skip
    return "\n".join(lines)


def chosen(count: int) -> list[Any]:
    """Scenes of one item, the classes in turn."""
    scenes = zoo.scenes()
    single = scenes.select(scenes.single)
    seen: dict[int, int] = {}
    turn = []
    for i, c in enumerate(single.labels[:, 0].tolist()):
        seen[c] = seen.get(c, 0) + 1
        turn.append((seen[c], c, i))
    return [single.images[i] for _, _, i in sorted(turn)[:count]]


def budgets(r: Robustness) -> str:
    """What share of pictures some budgets rewrite."""
    lines = ["| budget | of all pairs of picture and new class | of pictures, to some class |", "|---|---|---|"]
    sizes = [s for s in (*SIZES, 3, 8, round(255 * r.budget)) if s / 255 <= r.budget * (1 + 1e-6)]
    shares = [(s, *(100 * r.share(s / 255, any_class=a) for a in (False, True))) for s in sorted(set(sizes))]
    lines += [f"| {s}/255 | {pair:.0f} % | {some:.0f} % |" for s, pair, some in shares]
    count = int(r.asked.sum())
    return "\n".join(
        [*lines, "", f"{len(r.names)} scenes of one item, {count} pairs; the smallest budget found for each."]
    )


def pairs(r: Robustness) -> str:
    """The median of the smallest budget, old class by new class."""
    lines = ["| from \\ to | " + " | ".join(r.labels) + " |", "|---" * (1 + len(r.labels)) + "|"]
    found = {(p.was, p.to): p.median for p in r.pairs()}
    most = round(255 * r.budget)
    for a in range(len(r.labels)):
        cells = [found.get((a, b)) for b in range(len(r.labels))]
        said = ["" if m is None else f"> {most}" if m == float("inf") else f"{255 * m:.0f}" for m in cells]
        lines.append(f"| {r.labels[a]} | " + " | ".join(said) + " |")
    return "\n".join(
        [
            *lines,
            "",
            "Median over scenes, in levels of 255, of the smallest budget found; by the class that the model names.",
        ]
    )


def files(r: Robustness) -> str:
    """What changes of a file leave of a rewritten one."""
    head = [
        "the file is then",
        *(f"{k} change: {c}" for k in ("smallest", "surest") for c in ("new class kept", "old class back")),
    ]
    lines = ["| " + " | ".join([*head, "originals that keep their class"]) + " |", "|---" * 6 + "|"]
    late = "rounded to 8 bits only after the search"
    lines.append(
        f"| {late} | " + " | | ".join(f"{100 * r.rounded[k]:.0f} %" for k in ("smallest", "surest")) + " | | |"
    )
    for small, sure in zip(r.files["smallest"], r.files["surest"], strict=True):
        cells = [small.kept, small.back, sure.kept, sure.back, sure.original]
        lines.append(f"| {small.name} | " + " | ".join(f"{100 * c:.0f} %" for c in cells) + " |")
    return "\n".join(
        [
            *lines,
            "",
            f"{r.examples} scenes, each rewritten to the class that takes least; the surest change is of 4/255.",
        ]
    )


def told_apart(r: Robustness) -> str:
    """How well numbers tell rewritten pictures from originals."""
    lines = [
        "| number | AUROC, smallest change | AUROC, surest change | mean of originals | of smallest | of surest |",
        "|---" * 6 + "|",
    ]
    for small, sure in zip(r.told_apart["smallest"], r.told_apart["surest"], strict=True):
        areas = [f"{s.auroc:.2f} [{s.low:.2f}, {s.high:.2f}]" for s in (small, sure)]
        means = [f"{v:.2f}" for v in (small.before, small.after, sure.after)]
        lines.append(f"| {small.name} | " + " | ".join([*areas, *means]) + " |")
    said = "; ".join(f"*{name}*: {meaning}" for name, meaning in MEANINGS.items())
    return "\n".join(
        [
            *lines,
            "",
            f"{r.examples} originals against as many rewritten; 95 % bootstrap intervals over pictures. {said}.",
        ]
    )


def main() -> None:
    """Print the tables, and write them into the page if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--only", choices=["budget", "report"])
    asked = parser.parse_args()
    made = {}
    started = time.perf_counter()
    if asked.only != "report":
        made["success"] = at_one_budget()
    if asked.only != "budget":
        r = robustness(regard.load("zoo/vit-scenes"), chosen(asked.pictures), budget=BUDGET)
        made |= {"budgets": budgets(r), "pairs": pairs(r), "files": files(r), "told-apart": told_apart(r)}
    for name, text in made.items():
        print(f"\n{name}\n{text}", flush=True)
        if asked.write:
            measure.write(name, text, PAGE)
    print(f"\n{time.perf_counter() - started:.0f} s, {measure.machine()}")


if __name__ == "__main__":
    main()
