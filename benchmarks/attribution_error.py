"""How much of T does a map account for? The attribution-error protocol on bundled scenes and sentences, layer by layer.

Every method that takes a site, at the input, the embeddings and after each block; integrated gradients against four
baselines; and how many nodes a quadrature needs, beside Captum's default rule.

    python benchmarks/attribution_error.py             # print the tables (some minutes)
    python benchmarks/attribution_error.py --write     # and put them and the charts into docs/
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import measure

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch

import regard
from regard import Baseline, Site
from regard.evaluation import Row, Summary, attribution_error, summaries
from regard.report.evaluation import charts
from support import trained

PAGE = measure.ROOT / "docs" / "attribution-error.md"
COUNT = {"zoo/vit-scenes": 160, "zoo/bert-sentiment": 40, "MiniLM": 24}
AT_SITES = [
    "input_x_gradient", ("grad_cam", {}), ("layer_cam", {}), ("odam", {}), ("odam", {"signed": True}),
    ("difference_map", {"of": "inputs"}), "taylor", ("revised_ig", {"steps": 16}),
]  # fmt: skip
BASELINES = {
    "zoo/vit-scenes": [Baseline.zero(), Baseline.black(), Baseline.blur(8.0), Baseline.mean()],
    "zoo/bert-sentiment": [Baseline.zero(), Baseline.mask_token(4), Baseline.pad_token(0)],
}
NODES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96)
OWN = ["gae", "attention_grad_cam"]
SIGNED = "odam, signed=True"
"""Left out of the figure, which shows the map that is clamped."""


def sites(of: trained.Trained) -> list[Site]:
    inputs = {k: v[:1] for k, v in of.inputs().items()}
    count = len(regard.inspect(of.model, inputs).blocks)
    return [Site.input(), Site.embeddings(), *(Site.block(l) for l in range(count))]


def protocol(of: trained.Trained, **asked: Any) -> list[Row]:
    """The rows of some methods, a batch of 20 samples at a time."""
    rows: list[Row] = []
    for first in range(0, len(of.raw), 20):
        some = slice(first, first + 20)
        explained = lambda _, raw, *a, **o: of.reader.explain(raw, *a, **o)  # noqa: E731
        rows += attribution_error(of.model, of.raw[some], of.labels[some], first=first, explained=explained, **asked)
    return [dataclasses.replace(r, title=shown(r)) for r in rows]


def shown(row: Row) -> str:
    """The method with the options that make it another one; how many nodes it takes is said elsewhere."""
    return row.method + "".join(f", {k}={v}" for k, v in row.options.items() if k != "steps")


def by_layer(name: str, of: trained.Trained) -> list[Summary]:
    """Methods at sites; integrated gradients against its baselines; two attention methods against A = 0."""
    where = sites(of)[1:]
    rows = protocol(of, methods=["input_x_gradient", "taylor"], sites=[Site.input()])
    rows += protocol(of, methods=AT_SITES, sites=where)
    rows += protocol(of, methods=[("integrated_gradients", {"steps": 16})], baselines=BASELINES[name])
    rows += protocol(of, methods=OWN)
    return [s for s in summaries(rows) if s.metric == "relative_error"]


def table(found: Sequence[Summary]) -> str:
    """Methods × sites: the median of ε/|T| in per cent."""
    columns = list(dict.fromkeys(s.site for s in found))
    lines = ["| method | baseline | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
    for method, baseline in dict.fromkeys((s.title, s.baseline) for s in found):
        cells = {s.site: per_cent(s.value) for s in found if (s.title, s.baseline) == (method, baseline)}
        lines.append(f"| {method} | {baseline} | " + " | ".join(cells.get(c, "") for c in columns) + " |")
    return "\n".join(lines)


def per_cent(error: Any) -> str:
    """The median with its interval, two significant digits."""
    value, low, high = (f"{100 * v:.2g}" if v < 0.1 else f"{100 * v:.0f}" for v in error)
    return f"{value} [{low}, {high}]"


# -- nodes ------------------------------------------------------------------------------------------------------------


def nodes_table() -> str:
    """The fewest nodes of a fixed rule that bring the median of ε/|T| to 1 % and 0.1 %, and what adaptive nodes take."""
    lines = [
        "| model | site | Gauss, 1 % | 0.1 % | trapezoid, 1 % | 0.1 % | Captum's trapezoid, 1 % | adaptive, 1 % | 0.1 % "
        "| error of 50 Gauss nodes |",
        "|---" * 10 + "|",
    ]
    for name, make in trained.ALL.items():
        of = make(12 if name == "MiniLM" else 24)
        for site in sites(of)[:5]:
            fixed = {grid: errors(of, site, grid) for grid in ("gauss", "trapezoid")}
            captum = lambda n, e=fixed["trapezoid"]: e[n][1]  # noqa: E731
            cells = [
                *(fewest(lambda n, e=fixed["gauss"]: e[n][0], share) for share in (0.01, 0.001)),
                *(fewest(lambda n, e=fixed["trapezoid"]: e[n][0], share) for share in (0.01, 0.001)),
                fewest(captum, 0.01),
                *(f"{adaptive(of, site, share):.0f}" for share in (0.01, 0.001)),
                f"{100 * errors(of, site, 'gauss', (50,))[50][0]:.2g} %",
            ]
            lines.append(f"| {name} | {site.label} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def errors(of: trained.Trained, site: Site, grid: str, nodes: Sequence[int] = NODES) -> dict[int, tuple[float, float]]:
    """n -> the median of ε/|T|, and the same where weights add up to 1 − 1/n, as Captum's trapezoid's do."""
    out = {}
    for n in nodes:
        receipt = of.explain("revised_ig", site=site, steps=n, grid=grid).receipt
        found, T = receipt.attribution_sum, receipt.attribution_target
        theirs = (found * (1 - 1 / n) - T).abs() / T.abs()
        out[n] = (float(receipt.relative_error.nanmedian()), float(theirs.nanmedian()))
    return out


def fewest(error: Callable[[int], float], share: float) -> str:
    """The fewest of NODES from which on the error stays below a share."""
    good = [n for i, n in enumerate(NODES) if all(error(m) <= share for m in NODES[i:])]
    return str(good[0]) if good else f"> {NODES[-1]}"


def adaptive(of: trained.Trained, site: Site, share: float) -> float:
    """The median over samples of the nodes that adaptive Gauss-Kronrod takes."""
    used = []
    for raw, label in zip(of.raw, of.labels, strict=True):
        one = trained.Trained(of.reader, [raw], label[None])
        receipt = one.explain("revised_ig", site=site, tolerance=share).receipt
        used.append((receipt.passes - 4 + (site.kind == "input")) / 2)
    return float(torch.tensor(used).median())


def main() -> None:
    """Print the tables, and write them into the page if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", choices=["layers", "nodes"])
    asked = parser.parse_args()
    for name in BASELINES if asked.only != "nodes" else ():
        of = trained.ALL[name](COUNT[name])
        found = by_layer(name, of)
        text = f"{len(of.raw)} samples, target: the true class's logit; medians, in per cent of |T|.\n\n" + table(found)
        print(text, flush=True)
        if asked.write:
            stem = name.removeprefix("zoo/")
            measure.write(stem, text, PAGE)
            shown = [s for s in found if s.title != SIGNED]
            charts.attribution_error(
                shown, PAGE.parent / f"attribution-error-{stem}.png", f"{name}: what maps leave out"
            )
    if asked.only != "layers":
        text = nodes_table()
        if asked.write:
            measure.write("nodes", text, PAGE)


if __name__ == "__main__":
    main()
