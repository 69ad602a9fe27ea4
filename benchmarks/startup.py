"""CPU seconds of the command line from start to end, beside a bare script that loads the same model and runs it once.

Every command runs in a process of its own, round by round in turn, so that a busy machine slows all of them; what is told is
the median of the seconds of CPU (user and system), and for `explain` the ratio to the bare script in the same round. Compiled
Python files are in place, as after an installation: one round goes before.

    python benchmarks/startup.py            # print
    python benchmarks/startup.py --write    # the same, into docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

import measure

from regard import zoo

SENTENCE = "A quiet film of rare beauty."
BARE = """
import sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
with torch.no_grad():
    model(**tokenizer(sys.argv[2], return_tensors="pt"))
"""
REGARD = (sys.executable, "-m", "regard")
VERSION, METHODS, EXPLAIN, SCRIPT = "regard --version", "regard methods", "regard explain SENTENCE -q", "bare script"
LIMITS = {VERSION: 0.25, METHODS: 0.6}
RATIO = 1.1


def commands(model: str, out: str) -> dict[str, Sequence[str]]:
    """What is run, by name."""
    return {
        VERSION: (*REGARD, "--version"),
        METHODS: (*REGARD, "methods"),
        SCRIPT: (sys.executable, "-c", BARE, str(zoo.folder(model)), SENTENCE),
        EXPLAIN: (*REGARD, "explain", SENTENCE, "-m", model, "-q", "--out", out),
    }


def cpu(command: Sequence[str]) -> float:
    """Seconds of CPU that a command takes, in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"HF_HUB_OFFLINE": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rounds(count: int, model: str) -> dict[str, list[float]]:
    """Seconds of every command in each round, after one round to warm up."""
    with tempfile.TemporaryDirectory() as out:
        every = commands(model, out)
        times: dict[str, list[float]] = {name: [] for name in every}
        for turn in range(count + 1):
            for name, command in every.items():
                seconds = cpu(command)
                if turn:
                    times[name].append(seconds)
    return times


def ratio(times: Mapping[str, Sequence[float]]) -> float:
    """How much CPU an explanation takes of what the bare script does: the median over rounds."""
    return statistics.median(a / b for a, b in zip(times[EXPLAIN], times[SCRIPT], strict=True))


def table(times: Mapping[str, Sequence[float]]) -> str:
    """A row for each command, as Markdown."""
    lines = ["| command | CPU | limit |", "|---|---|---|"]
    for name, seconds in times.items():
        limit = f"{LIMITS[name]:g} s" if name in LIMITS else f"{RATIO:g} x" if name == EXPLAIN else ""
        beside = f" ({ratio(times):.2f} x the bare script)" if name == EXPLAIN else ""
        lines.append(f"| `{name}` | {statistics.median(seconds):.2f} s{beside} | {limit} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="zoo/bert-sentiment")
    args = parser.parse_args()
    times = rounds(args.rounds, args.model)
    what = f"{args.model}, {measure.machine()}, median of {args.rounds} rounds, each command in turn"
    text = f"`python benchmarks/startup.py`: {what}.\n\n{table(times)}"
    print(text)
    if args.write:
        measure.write("startup", text)


if __name__ == "__main__":
    main()
