"""Does a change to the library change a number? Maps and receipts of every method, by one tree and by another.

`write` explains the models of `small_models.py` (tiny random ones of some forty families, and the zoo) by every method of
`regard.methods()` and by many options, sites, baselines and targets, from fixed seeds on one thread, and keeps raw scores
(safetensors) and the receipts' numbers (JSON), a pair of files a model. `compare` tells where two folders differ from exactly
0, or what only one of them has; then its exit code is 1. Only public calls are used and no wording is kept, of a refusal the
error's class alone: the script runs unchanged on older and newer trees.

    PYTHONPATH=OLD/src python benchmarks/same_maps.py write /tmp/old      # --quick: five of the models, a minute
    PYTHONPATH=src python benchmarks/same_maps.py write /tmp/new
    python benchmarks/same_maps.py compare /tmp/old /tmp/new              # --quick: those five alone
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from safetensors.torch import load_file, save_file
from small_models import CASES, Case
from torch import Tensor

import regard
from regard import Baseline, Site

QUICK = ("bert", "vit", "t5", "lxmert", "zoo-detr")
NUMBERS = (
    "target_value", "baseline_value", "attribution_sum", "attribution_target", "attribution_error", "relative_error",
    "predicted", "explained", "decomposes", "complete", "passes", "seed")  # fmt: skip
"""Numbers of a receipt, by their names."""
DIFFERENCE = ("output_difference", "faithful")
"""max |output difference|, by its name and the older one."""

IG, RIG = "integrated_gradients", "revised_ig"
OPTIONS: dict[str, tuple[str | list[str], dict[str, Any]]] = {
    "rollout, from 1": ("rollout", {"start_layer": 1}),
    "gae, from 1": ("gae", {"start_layer": 1}),
    "gae, walk": ("gae", {"form": "walk"}),
    "gae, bimodal": ("gae", {"form": "bimodal"}),
    "gae, last": ("gae", {"readout": "last"}),
    "gae, mean": ("gae", {"readout": "mean"}),
    "gae, position 1": ("gae", {"readout": 1}),
    "gae, few bytes": ("gae", {"memory_budget": 2048}),
    "gae, measured, verified": ("gae", {"measure": "full", "verify": True}),
    "corrected_attention, negative": ("corrected_attention", {"sign": "negative"}),
    "corrected_attention, absolute": ("corrected_attention", {"sign": "absolute"}),
    "corrected_attention, signed": ("corrected_attention", {"sign": "signed"}),
    "corrected_attention, layer 0": ("corrected_attention", {"layers": 0, "sign": "signed"}),
    "heterogenous, signed": ("heterogenous", {"sign": "signed"}),
    "heterogenous, absolute, one": ("heterogenous", {"sign": "absolute", "hops": "one"}),
    "heterogenous, crossed, from 1": ("heterogenous", {"hops": "crossed", "start_layer": 1}),
    "heterogenous, mean of four": (
        "heterogenous",
        {"sign": ["positive", "signed"], "hops": ["all", "one"], "fusion": "mean"},
    ),
    "heterogenous, normalised": ("heterogenous", {"hops": ["one", "crossed"], "fusion": "max_normalised"}),
    "gradient, mean": ("gradient", {"reduce": "mean"}),
    "gradient, l1": ("gradient", {"reduce": "l1"}),
    "smoothgrad, three": ("smoothgrad", {"samples": 3, "sigma": 0.3, "reduce": "mean", "seed": 3}),
    "input_x_gradient, embeddings": ("input_x_gradient", {"site": Site.embeddings()}),
    "input_x_gradient, block 0": ("input_x_gradient", {"site": Site.block(0)}),
    "taylor, last block": ("taylor", {"site": Site.block(-1)}),
    "taylor, local": ("taylor", {"site": Site.block(0), "baseline": Baseline.zero().local()}),
    "taylor, attention 0": ("taylor", {"site": Site.attention(0)}),
    "taylor, all attention": ("taylor", {"site": Site.attention(joint=True)}),
    "ig, trapezoid": (IG, {"steps": 3, "grid": "trapezoid"}),
    "ig, tolerance": (IG, {"steps": 3, "tolerance": 0.2, "most": 9}),
    "ig, few bytes": (IG, {"steps": 3, "memory_budget": 4096}),
    "ig, embeddings": (IG, {"steps": 3, "site": Site.embeddings()}),
    "ig, attention 0": (IG, {"steps": 3, "site": Site.attention(0)}),
    "ig, all attention": (IG, {"steps": 3, "site": Site.attention(joint=True)}),
    "revised_ig, input": (RIG, {"steps": 3, "site": Site.input()}),
    "revised_ig, block 0, local": (RIG, {"steps": 3, "site": Site.block(0), "baseline": Baseline.zero().local()}),
    "grad_cam, signed": ("grad_cam", {"signed": True}),
    "grad_cam, embeddings": ("grad_cam", {"site": Site.embeddings()}),
    "layer_cam, signed, block 0": ("layer_cam", {"signed": True, "site": Site.block(0)}),
    "odam, signed": ("odam", {"signed": True}),
    "difference_map, inputs": ("difference_map", {"of": "inputs", "map": "grad_cam", "signed": True}),
    "bti_token, released": ("bti_token", {"steps": 4, "grid": "linspace", "path": "embedding_output"}),
    "bti_token, from 1": ("bti_token", {"steps": 4, "start_layer": 1}),
    "bti_head, released": ("bti_head", {"steps": 4, "grid": "linspace", "path": "embedding_output"}),
    "transition_attention, four": ("transition_attention", {"steps": 4, "start_layer": 1}),
    "random, seed 5": ("random", {"seed": 5}),
    "together": (["gae", "rollout", "gradient", "grad_cam", "bti_head", "taylor"], {}),
}
"""What is asked beside each method by its defaults: its name here -> method, options."""
FEW = (
    "corrected_attention, signed", "heterogenous, absolute, one", "heterogenous, crossed, from 1",
    "input_x_gradient, block 0", "ig, all attention", "revised_ig, input", "odam, signed", "bti_token, released",
    "together")  # fmt: skip
"""Those of them that every model is asked; a model that has further targets is asked all of them."""
BASELINES: dict[str, Baseline] = {
    "black": Baseline.black(0.5, 0.25),
    "white": Baseline.white(0.5, 0.25),
    "mean": Baseline.mean(),
    "blur": Baseline.blur(2.0),
    "noise": Baseline.noise(1),
    "mask token": Baseline.mask_token(4),
    "pad token": Baseline.pad_token(0),
}
BY_TARGET: dict[str, dict[str, Any]] = {
    "gae": {},
    "taylor": {},
    "difference_map": {},
    "bti_token": {"steps": 3},
}
"""Methods, with their options, that are asked for further targets."""

Thunk = Callable[[], Any]


# -- write ------------------------------------------------------------------------------------------------------------


def asked(case: Case) -> Iterator[tuple[str, Thunk]]:
    """All that is asked of a model: a name, and the call."""
    explain = partial(regard.explain, case.model, case.inputs)
    for method in regard.methods():
        yield method.name, partial(explain, case.target, method.name)
    for name, (method, options) in OPTIONS.items():
        if case.targets or name in FEW:
            yield name, partial(explain, case.target, method, **options)
    if not case.targets:
        return
    for name, baseline in {**BASELINES, **given(case.inputs)}.items():
        yield f"ig, {name}", partial(explain, case.target, IG, baseline=baseline, steps=3)
    yield "bti_head, mean", partial(explain, case.target, "bti_head", baseline=Baseline.mean(), steps=3)
    for target, made in case.targets.items():
        for method, options in BY_TARGET.items():
            yield f"{method}, {target}", partial(explain, made, method, **options)
    yield "several targets", partial(explain, list(case.targets.values()), ["gae", "odam"])
    yield from case.more.items()


def given(inputs: Any) -> dict[str, Any]:
    """The samples' own inputs, each in the place of another's: a baseline of the user's, and one of one stream."""
    name, tensor = next(iter(inputs.items())) if isinstance(inputs, Mapping) else ("input", inputs)
    other = Baseline.of(tensor.flip(0))
    return {"given": other, "given, one stream": {name: other}}


def numbers(explanation: Any) -> dict[str, Any]:
    """The numbers of an explanation beside its scores; None where its receipt has no such field."""
    receipt = explanation.receipt
    found = {name: plain(getattr(receipt, name, None)) for name in NUMBERS}
    by_name = (getattr(receipt, name) for name in DIFFERENCE if hasattr(receipt, name))
    return found | {
        DIFFERENCE[0]: next(by_name, None),
        "signed": explanation.signed,
        "grid": {name: plain(grid) for name, grid in explanation.grid.items()},
    }


def plain(value: Any) -> Any:
    """Tensors as lists of numbers, at full precision."""
    return value.tolist() if isinstance(value, Tensor) else value


def answers(ask: Thunk) -> list[Any] | str:
    """The explanations that a call gives, measured, or the class of its error; one that is not ours is shown as well."""
    torch.manual_seed(0)
    try:
        found = ask()
        explanations = [found] if isinstance(found, regard.Explanation) else list(found)
        for explanation in explanations:
            numbers(explanation)
    except regard.RegardError as e:
        return type(e).__name__
    except Exception as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        return type(e).__name__
    return explanations


def explained(case: Case) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Of all that is asked of a model: the maps, and the receipts' numbers or the classes of refusals."""
    maps, receipts = {}, {}
    for name, ask in asked(case):
        found = answers(ask)
        if isinstance(found, str):
            receipts[name] = {"refused": found}
            continue
        for i, explanation in enumerate(found):
            receipts[f"{name} | {i}"] = numbers(explanation)
            maps |= {f"{name} | {i} | {s}": t.contiguous() for s, t in explanation.scores.items()}
    return maps, receipts


def write(folder: Path, names: Sequence[str]) -> None:
    """Explain these models, and keep what they give."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty; name a new folder")
    started = time.perf_counter()
    for i, name in enumerate(names, 1):
        torch.manual_seed(0)
        maps, receipts = explained(CASES[name]())
        atomically(folder / f"{name}.safetensors", lambda path, maps=maps: save_file(maps, path))
        text = json.dumps(receipts, indent=1)
        atomically(folder / f"{name}.json", lambda path, text=text: path.write_text(text, encoding="utf-8"))
        refused = sum("refused" in r for r in receipts.values())
        print(f"{i:2}/{len(names)} {name}: {len(maps)} maps, {len(receipts) - refused} receipts, {refused} refused, "
              f"{time.perf_counter() - started:.0f} s so far", flush=True)  # fmt: skip


def atomically(path: Path, make: Callable[[Path], object]) -> None:
    """Write a file under another name, and give it its own when it is whole."""
    part = path.with_name(path.name + ".part")
    make(part)
    part.replace(path)


# -- compare ----------------------------------------------------------------------------------------------------------


@dataclass
class Folder:
    """What `write` left: maps, and receipts or refusals, by model and question."""

    maps: dict[str, Tensor]
    receipts: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, names: Sequence[str]) -> Folder:
        """Read what a folder has of these models. Raises SystemExit where that is nothing, or a half of a pair."""
        stems = {p.stem for p in folder.glob("*.safetensors")} | {p.stem for p in folder.glob("*.json")}
        stems &= set(names)
        if not stems or not all((folder / f"{s}{end}").exists() for s in stems for end in (".safetensors", ".json")):
            raise SystemExit(f"{folder} holds nothing that `write` has finished")
        maps, receipts = {}, {}
        for stem in sorted(stems):
            maps |= {f"{stem} | {k}": t for k, t in load_file(folder / f"{stem}.safetensors").items()}
            read = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
            receipts |= {f"{stem} | {k}": r for k, r in read.items()}
        return cls(maps, receipts)

    def values(self, questions: Iterable[str]) -> dict[str, Any]:
        """Each field of the receipts, or refusals, of some questions."""
        return {f"{q} | {name}": v for q in questions for name, v in self.receipts[q].items()}


def distance(a: Any, b: Any) -> float:
    """The largest difference of two values; NaN is equal to NaN, and what has another shape or kind is infinitely far."""
    if not isinstance(a, Tensor):
        if json.dumps(a) == json.dumps(b):
            return 0.0
        try:
            a, b = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            return math.inf
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    same = (a == b) | (a.isnan() & b.isnan())
    gap = (a.double() - b.double()).abs()
    far = torch.where(same, 0.0, gap.nan_to_num(nan=math.inf, posinf=math.inf))
    return float(far.max()) if far.numel() else 0.0


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, float]:
    """The names of what is not the same, and how far it is apart: NaN for what is on one side only."""
    gaps = {name: distance(a[name], b[name]) if name in a and name in b else math.nan for name in {**a, **b}}
    return {name: gap for name, gap in gaps.items() if gap != 0}


def compare(first: Path, second: Path, names: Sequence[str]) -> int:
    """Tell where two folders differ on these models; the number of such places."""
    a, b = Folder.read(first, names), Folder.read(second, names)
    both, alone = a.receipts.keys() & b.receipts.keys(), a.receipts.keys() ^ b.receipts.keys()
    values = a.values(both), b.values(both)
    found = differences(a.maps, b.maps) | differences(*values) | dict.fromkeys(alone, math.nan)
    for name, gap in sorted(found.items()):
        side = first if name in a.maps or name in a.receipts or name in values[0] else second
        print(f"{name}: {f'only in {side}' if math.isnan(gap) else f'differs by {gap:g}'}")
    receipts = [sum("refused" not in r for r in x.receipts.values()) for x in (a, b)]
    refused = [len(x.receipts) - n for x, n in zip((a, b), receipts, strict=True)]
    print(f"maps {len(a.maps)} and {len(b.maps)}, receipts {receipts[0]} and {receipts[1]}, "
          f"refusals {refused[0]} and {refused[1]}; different or on one side only: {len(found)}, "
          f"largest difference {max((g for g in found.values() if not math.isnan(g)), default=0.0):g}")  # fmt: skip
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one, two = commands.add_parser("write"), commands.add_parser("compare")
    one.add_argument("folder", type=Path)
    two.add_argument("first", type=Path)
    two.add_argument("second", type=Path)
    for command in (one, two):
        some = command.add_mutually_exclusive_group()
        some.add_argument("--quick", action="store_const", dest="only", const=QUICK, help=f"only {', '.join(QUICK)}")
        some.add_argument(
            "--only", action="append", choices=list(CASES), metavar="MODEL", help="this one, and others so"
        )
    given = parser.parse_args()
    names = given.only or list(CASES)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if given.command == "write":
        write(given.folder, names)
    else:
        sys.exit(1 if compare(given.first, given.second, names) else 0)


if __name__ == "__main__":
    main()
