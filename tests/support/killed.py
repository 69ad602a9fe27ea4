"""A run that is killed again and again, and then left alone: `python -m support.killed OUT KILLS WORKERS SEED`.

Each try is a fork of one process that has the model loaded, so that a try costs no more than its work.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOMY = 120.0


def killed(out: Path, kills: int, workers: int, seed: int) -> dict[str, Any]:
    """What such a run says: after each kill how many shards were there, and how many processes stayed."""
    paths = (
        os.pathsep.join(str(Path(__file__).parents[n]) for n in (1, 2)) + os.pathsep + os.environ.get("PYTHONPATH", "")
    )
    arguments = [sys.executable, "-m", "support.killed", str(out), str(kills), str(workers), str(seed)]
    done = subprocess.run(
        arguments, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=ROOMY * (kills + 1),
        check=False,
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


def begun(out: Path, workers: int, model: Any) -> int:
    """A run in a process of its own, whose workers are of its group."""
    from support.runs import small

    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        small(out, model=model, data="zoo/vit-scenes", workers=workers)
        code = 0
    finally:
        os._exit(code)


def main(out: Path, kills: int, workers: int, seed: int) -> None:
    import torch

    import regard
    from support.runs import small

    torch.set_num_threads(1)
    drawn, found = random.Random(seed), []
    model: Any = regard.load("zoo/vit-scenes")
    started = time.monotonic()
    small(out.with_name(out.name + "-undisturbed"), model=model, data="zoo/vit-scenes")
    took = time.monotonic() - started
    for _ in range(kills):
        before = shards(out)
        child = begun(out, workers, model)
        if workers > 1:  # they have the model to read first; the moment is random from the first shard on
            ends = time.monotonic() + ROOMY
            while shards(out) == before and not os.waitpid(child, os.WNOHANG)[0] and time.monotonic() < ends:
                time.sleep(0.005)
        time.sleep(drawn.uniform(0, took if workers == 1 else took / 4))
        before = of_group(child)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found.append({"alive": len(before), "gone": gone(child), "shards": shards(out)})
    child = begun(out, 1, model)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps({"kills": found, "code": code}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
