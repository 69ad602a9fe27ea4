"""A build without the rule sets of the backward pass (LRP is patented in some countries, its authors say): all else works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import regard

RUN = """
import torch, regard
from torch import nn
from regard.errors import UnknownName

names = [m.name for m in regard.methods()]
assert not {"attnlrp", "cp_lrp", "gim"} & {*names}, names
assert "gae" in names
layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
model = nn.Sequential(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Flatten(), nn.Linear(32, 3)).eval()
x = torch.randn(2, 4, 8)
found = regard.explain(model, x, 1, "gae")
assert found.scores["input"].shape == (2, 4)
try:
    regard.explain(model, x, 1, "attnlrp")
except UnknownName as error:
    print(error)
"""


@pytest.mark.long
def test_all_else_works_without_the_rule_sets(tmp_path: Path) -> None:
    package = Path(regard.__file__).parent
    shutil.copytree(package, tmp_path / "regard", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "regard" / "attribution" / "backward.py").unlink()
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "attnlrp" in done.stdout
