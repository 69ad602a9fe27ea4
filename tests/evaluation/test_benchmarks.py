"""Every benchmark can be imported: what it takes from the library, and from its neighbours, is still there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"
NEEDS = {"quantus", "captum"}
"""Named as the library that they take: imported from their own folder alone."""
IMPORTED = """
import importlib, sys
sys.path.insert(0, '.')
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as e:
        print(f'{name}: {type(e).__name__}: {e}')
"""


def test_every_benchmark_can_be_imported() -> None:
    names = sorted({p.stem for p in FOLDER.glob("*.py")} - NEEDS)
    assert len(names) > 10
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    run = [sys.executable, "-c", IMPORTED, *names]
    done = subprocess.run(run, cwd=FOLDER, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
