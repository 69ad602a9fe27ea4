"""Beside gim-explain: which of GIM's rules the package 0.1.4 applies to a model, and how far its relevances are from ours.

GIM (Edin et al., arXiv 2505.17630) has four rules: the divisor of a norm is constant; the gradient of softmax is taken at
temperature 2; queries and keys get a quarter of their gradient and values half of it; both factors of a gate get half. The
package lacks the fourth and finds the others by class and by name: `nn.LayerNorm`, `nn.RMSNorm`, `softmax`, and
`scaled_dot_product_attention` of `torch.nn.functional`. So each rule is switched off in turn: where the relevances stay as
they are, it was not applied.

    python benchmarks/gim.py             # makes an environment for gim-explain (see peers.py), then compares
    python benchmarks/gim.py --write     # and puts the table into docs/benchmarks.md

Relevances are those of word embeddings, x ⊙ ∂y/∂x, on tiny random models. (The package's own `explain` first subtracts the
embedding of a space from x; that is left out.) Nothing fails here: the table says what is so.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import torch
from beside import FAMILIES, Family, apart, ids_of, input_x_gradient, ours
from peers import Peer
from torch import Tensor

PEER = Peer("gim", ("torch", "transformers>=5", "safetensors", "jaxtyping"), ("gim-explain==0.1.4",))
SWITCHED_OFF: dict[str, dict[str, Any]] = {
    "norm": {"freeze_norm": False},
    "softmax": {"softmax_temperature": None},
    "q, k, v": {"q_scale": None, "k_scale": None, "v_scale": None},
}
"""A rule -> the package's options without it."""
GATED = {"Llama", "Qwen3", "Gemma 3"}


def theirs(family: Family, model: Any, ids: Tensor, **options: Any) -> Tensor:
    """The relevance of word embeddings under the package's rules (b, n)."""
    import gim

    with gim.GIM(model, **options):
        return input_x_gradient(model, ids, family.score)


def applied(name: str, kernel: str) -> dict[str, str]:
    """Rule -> whether the package applies it to a family with this kernel of attention; and how far it is from ours."""
    family, ids = FAMILIES[name], ids_of(2, 9)
    model: Any = family.make(2, 32)
    model.set_attn_implementation(kernel)
    own, plain = ours(model, ids, family.score, "gim"), input_x_gradient(model, ids, family.score)
    found = {"family": name, "attention": kernel, "plain": f"{apart(plain, own):.2f}"}
    try:
        all_rules = theirs(family, model, ids)
    except TypeError as e:
        return found | {"package": f"TypeError: {str(e).rpartition('.')[2]}"}
    for rule, without in SWITCHED_OFF.items():
        found[rule] = "no" if torch.equal(theirs(family, model, ids, **without), all_rules) else "yes"
    return found | {"gates": "no" if name in GATED else "–", "package": f"{apart(all_rules, own):.2f}"}


def inside(path: Path) -> None:
    """What is done in the package's environment."""
    sys.path.remove(str(Path(__file__).parent))  # where the package would be looked for in this very script
    found = [applied(name, kernel) for name in FAMILIES for kernel in ("sdpa", "eager")]
    path.write_text(json.dumps(found), encoding="utf-8")


COLUMNS = {
    "family": "family",
    "attention": "attention",
    **{rule: rule for rule in SWITCHED_OFF},
    "gates": "gates",
    "package": "package, from `gim`",
    "plain": "plain gradient, from `gim`",
}


def table(found: list[dict[str, str]]) -> str:
    """Families x rules."""
    lines = [[*COLUMNS.values()], ["---"] * len(COLUMNS), *([own.get(c, "–") for c in COLUMNS] for own in found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def outside(write: bool) -> None:
    """What is done in the project's environment."""
    with tempfile.TemporaryDirectory() as folder:
        PEER.run(__file__, ["--inside", f"{folder}/found.json"])
        found = json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))
    print(text := table(found))
    if write:
        measure.write("gim", text)


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        inside(args.inside)
    else:
        outside(args.write)


if __name__ == "__main__":
    main()
