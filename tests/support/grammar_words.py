"""Networks of the grammar that differ from a plain one in one word each, and those that once were wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from support import grammar as g
from support.grammar import Attention, Layer, Net

torch.set_num_threads(1)

# -- one word at a time -----------------------------------------------------------------------------------------------

SMALL = Net(batch=2, tokens=6, others=6, heads=2, size=3)


def alone() -> dict[str, Net]:
    """Each word in two layers that are plain otherwise: the simplest model that it can be wrong in."""
    fused = {"scores": "sdpa", "product": "sdpa"}
    whole = {"scores": "mha", "product": "mha"}
    flat = {"layout": "samples first"}
    said: dict[str, dict[str, Any]] = {}
    for layout in g.LAYOUTS:
        said[layout] = {"layout": layout} | (whole if layout == "mha" else {})
        if layout != "mha":
            said[f"{layout}, fused"] = {"layout": layout} | fused
    for scores in g.SCORES[:-2]:
        said[f"scores {scores}"] = {"scores": scores} | (flat if scores in ("bmm", "baddbmm") else {})
        if scores not in ("bmm", "baddbmm"):
            product = scores if scores in g.PRODUCTS else "einsum"
            said[f"scores {scores}, heads last"] = {"scores": scores, "product": product, "layout": "b n h d"}
    said |= {f"product {p}": {"product": p} | (flat if p == "bmm" else {}) for p in g.PRODUCTS[:-2]}
    said |= {f"softmax {how}": {"softmax": how} for how in g.SOFTMAXES}
    said |= {f"grouped {how}": {"grouped": how} for how in g.GROUPED}
    said |= {f"values {v}": {"values": v} for v in g.VALUES} | {
        f"values {v}, fused": {"values": v} | fused for v in g.VALUES
    }
    said |= {f"of y, values {v}": {"keys": "y", "values": v} for v in g.VALUES}
    said |= {f"extra {e}": {"extra": e} for e in g.EXTRAS}
    said |= {f"causal {m}": {"causal": True, "mask": m} for m in ("fill", "add")} | {
        "causal, fused": {"causal": True} | fused
    }
    for field in ("rows", "samples", "windows"):
        words = {"rows": g.LOOPS, "samples": g.SAMPLES, "windows": g.WINDOWS}[field]
        said |= {f"{field} {w}": {field: w} for w in words} | {f"{field} {w}, fused": {field: w} | fused for w in words}
    said |= {f"stripes, windows {w}": {"layout": "stripes", "windows": w} for w in g.WINDOWS}
    found = {name: replace(SMALL, layers=(Layer(attentions=(Attention(**a),)),) * 2) for name, a in said.items()}
    found |= {f"move {m}": replace(SMALL, layers=(Layer(), Layer(move=m))) for m in g.MOVES}
    at_first = [m for m in g.MOVES if not m.startswith(("pairs", "tome"))]
    found |= {f"move {m}, at first": replace(SMALL, layers=(Layer(move=m),)) for m in at_first}
    found |= {f"residual {how}": replace(SMALL, layers=(Layer(residual=how),) * 2) for how in g.RESIDUALS}
    found |= {f"pool {p}": replace(SMALL, pool=p) for p in g.POOLS}
    for first, second in ("xx", "xy", "yy"):
        for after in (True, False):
            side_by_side = Layer(attentions=(Attention(keys=first), Attention(keys=second)), after=after)
            found[f"{first} + {second}, {'after' if after else 'before'}"] = replace(
                SMALL, layers=(Layer(), side_by_side)
            )
    for joined in g.JOINED[1:]:
        for after in (True, False) if joined not in g.SIDES else (False,):
            layer = Layer(attentions=(Attention(), Attention(layout="loop")), after=after, joined=joined)
            found[f"{joined}, {'after' if after else 'before'}"] = replace(SMALL, layers=(layer, layer))
    changes: list[dict[str, Any]] = [{"enter": "linear"}, {"enter": "ids"}, {"cls": True}, {"padded": True}]
    return found | {f"{c}": replace(SMALL, **c) for c in changes}


# -- tests ------------------------------------------------------------------------------------------------------------

ONCE_WRONG = [
    Net(heads=2, batch=2, layers=(Layer(attentions=(Attention(layout="h b n d"),)),)),
    Net(layers=(Layer(), Layer(residual="bare", attentions=(Attention(keys="y"),)))),
    Net(others=5, cls=True, encoded=True, layers=(Layer(attentions=(Attention(keys="y", values="other"),)),)),
    Net(heads=3, layers=(Layer(attentions=(Attention(layout="stripes", rows="joined"),)),)),
    Net(layers=(Layer(attentions=(Attention(extra="second", softmax="by hand"),)),)),
    Net(layers=(Layer(attentions=(Attention(extra="second", scores="einsum transposed"),)),)),
    Net(heads=4, cls=True, layers=(Layer(attentions=(Attention(extra="relative", layout="loop", rows="joined"),)),)),
    Net(cls=True, layers=(Layer(attentions=(Attention(softmax="by hand", windows="joined"),)),), pool="max"),
    Net(cls=True, layers=(Layer(attentions=(Attention(scores="multiply", windows="joined"),)),), pool="max"),
    Net(cls=True, layers=(Layer(attentions=(Attention(product="multiply", windows="joined"),)),), pool="mean"),
    Net(
        layers=(Layer(residual="bare", attentions=(Attention(scores="multiply", rows="in a buffer"),)), Layer()),
        cls=True,
    ),
    Net(tokens=3, layers=(Layer(attentions=(Attention(extra="relative", product="multiply", rows="joined"),)),)),
    Net(layers=(Layer(), Layer(attentions=(Attention(softmax="by hand", product="multiply"),)))),
    Net(encoded=True, layers=(Layer(attentions=(Attention(keys="y", values="parameter keys", scores="multiply"),)),)),
    Net(layers=(Layer(attentions=(Attention(keys="y", product="multiply"),)),)),
    Net(batch=2, tokens=6, cls=True, layers=(Layer(move="tome", residual="post"),)),
    Net(batch=2, heads=2, cls=True, layers=(Layer(move="tome"),), pool="max", seed=2),
    Net(layers=(Layer(move="tile", attentions=(Attention(rows="joined"),)),)),
    Net(layers=(Layer(), Layer(move="tile", attentions=(Attention(windows="folded"),))), pool="last"),
    Net(layers=(Layer(), Layer(move="tile", attentions=(Attention(windows="folded"),))), pool="mean"),
    Net(batch=3, heads=3, size=3, layers=(Layer(move="repeat"), Layer(attentions=(Attention(layout="heads first"),)))),
    Net(batch=2, layers=(Layer(move="sort"), Layer(move="pairs sum")), seed=2),
    Net(
        heads=3,
        layers=(
            Layer(attentions=(Attention(layout="modules"), Attention(layout="stripes")), after=False, joined="stacked"),
        ),
    ),
    Net(
        layers=(
            Layer(
                attentions=(Attention(), Attention(layout="b g r n d", samples="in a buffer")), joined="a linear layer"
            ),
        )
    ),
    Net(
        batch=2,
        enter="ids",
        cls=True,
        layers=(
            Layer(move="sort", attentions=(Attention(scores="multiply", rows="joined"),)),
            Layer(attentions=(Attention(keys="y"),)),
            Layer(),
        ),
    ),
    Net(
        layers=(
            Layer(move="repeat", attentions=(Attention(keys="y"), Attention())),
            Layer(move="pairs sum", attentions=(Attention(keys="y", layout="b g r n d", scores="multiply"),)),
        )
    ),
    Net(padded=True, layers=(Layer(attentions=(Attention(layout="loop", samples="stacked"),)),)),
    Net(
        batch=3,
        tokens=3,
        others=3,
        heads=3,
        size=3,
        cls=True,
        layers=(
            Layer(attentions=(Attention(), Attention(rows="joined", windows="joined"))),
            Layer(
                residual="bare",
                attentions=(
                    Attention(),
                    Attention(
                        keys="y",
                        values="parameter keys",
                        layout="modules",
                        scores="einsum keys first",
                        softmax="by hand",
                        rows="joined",
                    ),
                ),
            ),
        ),
    ),
]
"""Draws that failed once, shrunk."""
