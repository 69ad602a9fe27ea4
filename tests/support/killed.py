"""A run that is killed again and again, and then left alone: `python -m support.killed OUT WORKERS,... EXAMPLES SEED`.

Each try is a fork of one process that has the model loaded, so that a try costs no more than its work.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOMY = 120.0
IMPORTS = 5.0
"""Seconds, some of which workers take to begin."""


def killed(out: Path, workers: Sequence[int], examples: int, seed: int) -> dict[str, Any]:
    """What such a run says: after each kill how many shards were there, and how many processes stayed.

    workers: of each run that is killed, the last of all has one.
    """
    home = Path(__file__).parents[1]
    paths = os.pathsep.join([str(home), str(home.parent), os.environ.get("PYTHONPATH", "")])
    arguments = [
        sys.executable,
        "-m",
        "support.killed",
        str(out),
        ",".join(map(str, workers)),
        str(examples),
        str(seed),
    ]
    done = subprocess.run(
        arguments, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True,
        timeout=ROOMY * (len(workers) + 1), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def of_group(group: int) -> list[int]:
    """The processes of a group that live, zombies left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, own = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(own) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def gone(group: int, within: float = 10.0) -> bool:
    """Whether all processes of a group end in time."""
    ends = time.monotonic() + within
    while time.monotonic() < ends:
        if not of_group(group):
            return True
        time.sleep(0.02)
    return False


def shards(out: Path) -> int:
    return len([*out.glob("rows/shard-*.parquet")])


def begun(out: Path, workers: int, how: dict[str, Any]) -> int:
    """A run in a process of its own, whose workers are of its group."""
    from support.runs import small

    child = os.fork()
    if child:
        with contextlib.suppress(PermissionError):  # the child was faster, and has begun another program's process
            os.setpgid(child, child)
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        small(out, workers=workers, **how)
        code = 0
    finally:
        os._exit(code)


def kill(child: int, out: Path, workers: int, wait: float, patient: bool) -> dict[str, Any]:
    """Kill a run some time from now, or from its first shard on."""
    before, ends = shards(out), time.monotonic() + ROOMY
    while patient and shards(out) == before and of_group(child) and time.monotonic() < ends:
        time.sleep(0.005)
    time.sleep(wait)
    alive = of_group(child)
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"workers": workers, "alive": len(alive), "gone": gone(child), "shards": shards(out), "code": code}


def main(out: Path, workers: Sequence[int], examples: int, seed: int) -> None:
    import torch

    import regard
    from support.runs import small

    torch.set_num_threads(1)
    how: dict[str, Any] = {"model": regard.load("zoo/vit-scenes"), "data": "zoo/vit-scenes", "examples": examples}
    started = time.monotonic()
    small(out.with_name(out.name + "-undisturbed"), **how)
    took = (time.monotonic() - started) / len(workers)
    drawn = random.Random(seed)
    found = []
    for number, w in enumerate(workers):  # workers have the model to read first: every other time they get to work
        patient = w > 1 and number % 2 == 1
        wait = drawn.uniform(0, took / w if w == 1 or patient else IMPORTS)
        found.append(kill(begun(out, w, how), out, w, wait, patient))
    code = os.waitstatus_to_exitcode(os.waitpid(begun(out, 1, how), 0)[1])
    print(json.dumps({"kills": found, "code": code}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(w) for w in sys.argv[2].split(",")], int(sys.argv[3]), int(sys.argv[4]))
