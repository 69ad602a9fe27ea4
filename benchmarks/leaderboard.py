"""Our own leaderboard, docs/leaderboard.md: the zoo's models with known answers, from stores that `regard.evaluate` keeps.

    python benchmarks/leaderboard.py --kept FOLDER            # run what is missing (an hour of one core), and print
    python benchmarks/leaderboard.py --kept FOLDER --write    # the same, into docs/leaderboard.md
    python benchmarks/leaderboard.py --kept FOLDER --show     # run nothing: print what the stores hold

A run that was cut off goes on where it ended. After a change of Regard's code, or of this list, a store is refused as any
other run is: remove its folder. A set more is one line of `RUNS` more.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import measure

import regard
from regard.cli.evaluating import line_of
from regard.evaluation.leaderboard import leaderboard
from regard.evaluation.store.results import Results
from regard.report.leaderboard import sections

PAGE = measure.ROOT / "docs" / "leaderboard.md"
COMMAND = "python benchmarks/leaderboard.py --kept FOLDER --write"
METHODS = (
    "random", "raw_attention", "rollout", "attention_grad_cam", "gae", "gradient", "input_x_gradient",
    "integrated_gradients", "revised_ig", "bti_token", "attnlrp", "cp_lrp", "gim",
)  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """One run: the name of its folder, model, protocols, data (None: the model's own), methods, and how many examples."""

    name: str
    model: str
    protocols: Sequence[str]
    data: str | None = None
    methods: Sequence[str] = METHODS
    examples: int | None = None


ATOMS = "rxnmapper"
"""A folder with the model of chemical reactions and its data, which `atoms.py --folder` writes."""
TAKEN = ("perturbation({})", "perturbation({},order=negative)")
DROPPED = [p.format("unit=token,fill=drop") for p in TAKEN]
WORDS = [p.format("unit=word,fill=drop") for p in TAKEN]
RUNS = (
    Listed("vit-scenes", "zoo/vit-scenes", ["segmentation", *DROPPED, "attribution-error"]),
    Listed("bert-sentiment", "zoo/bert-sentiment", ["rationale", *WORDS, "attribution-error"]),
    Listed(
        "clip-scenes", "zoo/clip-scenes", ["segmentation"], methods=(*METHODS, "attention_eclip", "legrad"), examples=60
    ),
    Listed("detr-scenes", "zoo/detr-scenes", ["segmentation"], examples=60),
    Listed("vlm-scenes", "zoo/vlm-scenes", ["segmentation"], examples=60),
    Listed("llama-facts", "zoo/llama-facts", ["known-tokens"], examples=60),
    Listed("lxmert-scenes", "zoo/lxmert-scenes", ["known-tokens"], examples=60),
    Listed("atoms", ATOMS, ["known-tokens"], f"atoms:{ATOMS}"),
)


def main() -> None:
    """Run, and print or write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kept", type=Path, required=True, help="a folder for the stores")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--write", action="store_true", help="into docs/leaderboard.md")
    given = parser.parse_args()
    given.kept.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(given.kept):
        for run in RUNS if not given.show else ():
            print(run.name, flush=True)
            if run.model == ATOMS and not Path(ATOMS).exists():
                subprocess.run([sys.executable, Path(__file__).with_name("atoms.py"), "--folder", ATOMS], check=True)
            regard.evaluate(
                run.model, run.data, run.methods, run.protocols, run.name, examples=run.examples, costs=True,
                told=lambda progress: print(line_of(progress), flush=True),
            )  # fmt: skip
        text = sections(leaderboard([Results(run.name).as_run() for run in RUNS]), COMMAND)
    print(text)
    if given.write:
        measure.write("leaderboard", text, PAGE)


if __name__ == "__main__":
    main()
