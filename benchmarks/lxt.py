"""Beside LXT: the same relevances to rounding, and what they cost.

LXT (Achtibat et al., ICML 2024) replaces the code of a family's classes so that an ordinary gradient follows the rules of
AttnLRP, or of CP-LRP. `attnlrp` and `cp_lrp` must give the relevance of word embeddings that its efficient mode gives, on tiny
random models of the families that it has, to 1e-5 of the largest; the script ends with an error where they do not.

    python benchmarks/lxt.py             # makes an environment for lxt==2.1 (see peers.py), then compares and measures
    python benchmarks/lxt.py --write     # and puts the tables into docs/benchmarks.md
    python benchmarks/lxt.py --tiny      # a quick check that it runs

LXT was made for an older Transformers, in whose environment its relevances are stored with the weights, as safetensors. Ours
are computed from these weights twice: there, and in the project's own environment. CPU times are of one run there: the floor
(the plain forward pass and the gradient at the word embeddings), LXT and ours in turn, round by round.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import measure
import torch
from beside import FAMILIES, Family, apart, ids_of, input_x_gradient, ours
from peers import Peer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

PEER = Peer("lxt", ("torch", "transformers==4.52.4", "safetensors", "jaxtyping"), ("lxt==2.1",))
LIMIT, FLOOR = 1e-5, "floor"
RULES = {"attnlrp": "attnLRP", "cp_lrp": "cp_LRP"}
"""Our method -> the name of LXT's table of patches."""

# -- relevances ----------------------------------------------------------------------------------------------------------


@contextmanager
def patched(family: Family, rules: str) -> Iterator[bool]:
    """LXT's rules in a family's code, taken back at the end; False where it has none of that name."""
    patches = getattr(_lxt(family), RULES[rules], None)
    module: Any = family.module
    before = {target: dict(vars(target)) for target in {**(patches or {}), module: None}}
    try:
        if patches is not None:
            if hasattr(
                module, "ALL_ATTENTION_FUNCTIONS"
            ):  # one table for all of Transformers: ours to change is a copy
                module.ALL_ATTENTION_FUNCTIONS = dict(module.ALL_ATTENTION_FUNCTIONS)
            importlib.import_module("lxt.efficient").monkey_patch(module, patches)
        yield patches is not None
    finally:
        for target, old in before.items():
            for name, value in old.items():
                if vars(target).get(name) is not value:
                    setattr(target, name, value)


def _lxt(family: Family) -> types.ModuleType:
    """LXT's patches of a family. A stand-in for torchvision, of which LXT patches a Transformer that is not asked for here."""
    import transformers  # noqa: F401

    if "torchvision" not in sys.modules:
        names = ("torchvision", "torchvision.models", "torchvision.models.vision_transformer")
        package, models, vision = (types.ModuleType(name) for name in names)
        models.vision_transformer, vision.nn = vision, nn  # type: ignore[attr-defined]
        sys.modules |= dict(zip(names, (package, models, vision), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that zennit, for vision too, is not there
        return importlib.import_module(f"lxt.efficient.models.{family.code}")


def store(folder: Path) -> None:
    """Weights and LXT's relevances of every family, a file each."""
    ids = ids_of(2, 9)
    for name, family in FAMILIES.items():
        state = {k: v.clone() for k, v in family.make(2, 32).state_dict().items()}
        found = {}
        for rules in RULES:
            with patched(family, rules) as there:
                if there:
                    found[f"relevance {rules}"] = input_x_gradient(family.make(2, 32, state), ids, family.score)
        save_file({"ids": ids, **found, **{f"weight {k}": v for k, v in state.items()}}, folder / f"{name}.safetensors")


Found = dict[str, dict[str, list[float]]]


def differences(folder: Path) -> Found:
    """Family -> rules -> how far ours, and plain gradients, are from what is stored: see `apart`."""
    found: Found = {}
    for name, family in FAMILIES.items():
        stored = load_file(folder / f"{name}.safetensors")
        state = {k.removeprefix("weight "): v for k, v in stored.items() if k.startswith("weight ")}
        model = family.make(2, 32, state)
        for rules in RULES:
            if (theirs := stored.get(f"relevance {rules}")) is not None:
                own = ours(model, stored["ids"], family.score, rules)
                plain = input_x_gradient(model, stored["ids"], family.score)
                found.setdefault(name, {})[rules] = [apart(own, theirs), apart(plain, theirs)]
    return found


# -- times ---------------------------------------------------------------------------------------------------------------


def ratios(tiny: bool, rounds: int) -> dict[str, dict[str, float]]:
    """Family -> way -> time as a multiple of the floor's."""
    layers, width, ids = (2, 32, ids_of(1, 9)) if tiny else (4, 512, ids_of(1, 512))
    return {name: _ratios(family, layers, width, ids, rounds) for name, family in FAMILIES.items()}


def _ratios(family: Family, layers: int, width: int, ids: Tensor, rounds: int) -> dict[str, float]:
    model = family.make(layers, width)
    with patched(family, "attnlrp"):
        theirs = family.make(layers, width, model.state_dict())

    def lxt() -> object:
        with patched(family, "attnlrp"):
            return input_x_gradient(theirs, ids, family.score)

    times = measure.timed(
        {
            FLOOR: lambda: input_x_gradient(model, ids, family.score),
            "LXT": lxt,
            "attnlrp": lambda: ours(model, ids, family.score, "attnlrp"),
        },
        rounds,
        time.process_time,
    )
    return {way: measure.ratio(times, way, FLOOR) for way in times}


# -- tables --------------------------------------------------------------------------------------------------------------


def inside(folder: Path, tiny: bool, rounds: int) -> None:
    """What is done in LXT's environment: relevances are stored, compared there, and all ways are timed."""
    import transformers

    sys.path.remove(str(Path(__file__).parent))  # where LXT would be looked for in this very script
    store(folder)
    found = {
        "transformers": transformers.__version__,
        "differences": differences(folder),
        "ratios": ratios(tiny, rounds),
        "machine": measure.machine(),
    }
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


def tables(there: dict[str, Any], here: Found, version: str) -> str:
    """How far apart, and how long, as Markdown."""
    heads = ("family", "rules", f"Transformers {there['transformers']}", f"Transformers {version}", "plain gradient")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, rules in ((name, rules) for name, own in here.items() for rules in own):
        (old, _), (new, plain) = there["differences"][name][rules], here[name][rules]
        lines.append(f"| {name} | `{rules}` | {old:.0e} | {new:.0e} | {plain:.2f} |")
    lines += ["", "| family | floor | LXT | `attnlrp` |", "|---|---|---|---|"]
    for name, own in there["ratios"].items():
        lines.append(f"| {name} | {own[FLOOR]:.2f} x | {own['LXT']:.2f} x | {own['attnlrp']:.2f} x |")
    return "\n".join(lines)


def outside(tiny: bool, rounds: int, write: bool) -> None:
    """What is done in the project's environment: the same relevances are compared once more, and tables are made."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        options = ["--inside", folder, "--rounds", str(rounds), *(["--tiny"] if tiny else [])]
        PEER.run(__file__, options)
        there = json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))
        here = differences(Path(folder))
    size = "tiny models, 9 tokens" if tiny else "4 layers, width 512, 512 tokens"
    head = (
        "`python benchmarks/lxt.py`: the largest difference of relevances from LXT 2.1's, as a share of its largest; then "
        f"CPU times, {size}, {there['machine']}, median of {rounds} rounds in turn."
    )
    text = f"{head}\n\n{tables(there, here, transformers.__version__)}"
    print(text)
    if write:
        measure.write("lxt", text)
    worst = max(own for found in (there["differences"], here) for rules in found.values() for own, _ in rules.values())
    if worst > LIMIT:
        raise SystemExit(f"LXT and we do not agree: {worst:.1e} of the largest relevance, {LIMIT:.0e} is allowed")


def main() -> None:
    """Print the tables, or write them; fail where relevances differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="times of tiny models")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.inside:
        inside(args.inside, args.tiny, args.rounds)
    else:
        outside(args.tiny, args.rounds, args.write)


if __name__ == "__main__":
    main()
