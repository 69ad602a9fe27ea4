"""Every benchmark can be imported: what it takes from the library, and from its neighbours, is still there."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

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


def test_what_is_timed_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On something tiny: it makes calls of its own, as no run does."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", ["recursion.py", "--layers", "2", "--tokens", "9", "--rounds", "1"])
    threads = torch.get_num_threads()
    try:
        importlib.import_module("recursion").main()
    finally:
        torch.set_num_threads(threads)
    assert capsys.readouterr().out.count(" x |") == 2


def written(folder: Path, maps: dict[str, Tensor], receipts: dict[str, Any]) -> Path:
    """A folder as `same_maps.py write` leaves it, of one model."""
    folder.mkdir()
    save_file(maps, folder / "bert.safetensors")
    (folder / "bert.json").write_text(json.dumps(receipts), encoding="utf-8")
    return folder


def test_maps_that_differ_in_the_last_bit_or_are_missing_are_not_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    same_maps = importlib.import_module("same_maps")
    scores, nan = torch.tensor([[1.0, float("nan"), float("-inf")]]), float("nan")
    maps = {"gae | 0 | x": scores, "bti | 0 | x": scores.clone()}
    receipts = {"gae | 0": {"passes": 2, "relative_error": [nan, 0.5], "predicted": None}, "bti": {"refused": "Misuse"}}
    old = written(tmp_path / "old", maps, receipts)
    last_bit = torch.nextafter(scores, torch.tensor(2.0))
    number = {"gae | 0": receipts["gae | 0"] | {"relative_error": [nan, 0.5000000001]}, "bti": receipts["bti"]}
    others = {
        "same": (maps, receipts, 0),
        "last bit": (maps | {"gae | 0 | x": torch.where(scores == 1, last_bit, scores)}, receipts, 1),
        "a number": (maps | {"gae | 0 | x": torch.where(scores == 1, scores, 0.0)}, receipts, 1),
        "shape": (maps | {"gae | 0 | x": scores[0]}, receipts, 1),
        "precision": (maps | {"gae | 0 | x": scores.double()}, receipts, 1),
        "one map only": ({"gae | 0 | x": scores}, receipts, 1),
        "one receipt only": (maps, {"bti": receipts["bti"]}, 1),
        "receipt": (maps, number, 1),
        "refusal": (maps, receipts | {"bti": {"refused": "TrailLost"}}, 1),
        "explained now": (maps, receipts | {"bti": {"passes": 2}}, 2),
    }
    for name, (other_maps, other_receipts, places) in others.items():
        new = written(tmp_path / name, other_maps, other_receipts)
        assert (same_maps.compare(old, new, ["bert"]), same_maps.compare(new, old, ["bert"])) == (places, places), name
    assert "differs by 1.19209e-07" in capsys.readouterr().out
