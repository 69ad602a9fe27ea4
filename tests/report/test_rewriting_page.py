"""The page and the figure of a rewriting: what they say, of any picture, and nothing that HTML could read."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import regard
from regard.errors import Misuse
from regard.report.rewriting.html import facts, page, share
from regard.report.rewriting.view import view_of
from support.drawn import NASTY
from support.linear_pictures import LinearPictures


def rewriting(**changes: Any) -> regard.Rewriting:
    """A rewriting of two small pictures, by hand but for the change."""
    x = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
    made = regard.rewrite(LinearPictures(3, side=8), x, 2, budget=9 / 255, low=0, high=1, levels=255)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_names_and_labels_are_escaped() -> None:
    shown = page(rewriting(labels=["a", NASTY, NASTY], names=[NASTY, "second"]))
    assert NASTY not in shown
    assert "<script" not in shown
    assert not re.search(r'(src|href)="(?!data:)', shown)


def test_what_was_found_and_what_was_not() -> None:
    made = rewriting(success=torch.tensor([True, False]), labels=["hat", "cap", "shoe"])
    shown = page(made)
    assert shown.count("Not rewritten.") == 1
    assert "the one beside it for <strong>shoe</strong>" in shown
    assert "There are no maps" in shown
    made.keep = torch.tensor([0, 0])
    assert "with <strong>hat</strong> second" in page(made)


def test_maps_of_a_class_share_a_scale() -> None:
    maps = torch.rand(2, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    view = view_of(rewriting(maps=maps), 1)
    assert [len(panels) for _, _, panels in view.maps] == [2, 2]
    for i, (_, scale, panels) in enumerate(view.maps):
        assert scale.top == pytest.approx(float(maps[1, [i, 2 + i]].max()))
        assert all(p.scale is scale for p in panels)
        assert torch.equal(torch.from_numpy(panels[1].cells), maps[1, 2 + i])


def test_facts() -> None:
    made = rewriting(linf=torch.tensor([3 / 255, 0.0]), psnr=torch.tensor([40.0, math.inf]), notes=["a note"])
    rows = {r["name"]: r["value"] for r in facts(view_of(made, 0))}
    assert rows["largest change"] == "3/255"
    assert rows["budget"].startswith("9/255")
    assert rows["PSNR"] == "40.0 dB"
    assert rows["note"] == "a note"
    assert rows["SSIM"] == f"{float(made.ssim[0]):.4f}"  # type: ignore[index]
    assert {r["name"]: r["value"] for r in facts(view_of(made, 1))}["PSNR"].startswith("infinite")


@pytest.mark.parametrize(
    ("value", "said"), [(0.5, "50 %"), (0.0011, "0.11 %"), (0.9991, "99.9 %"), (1.0, "100 %"), (0.0, "0 %")]
)
def test_shares(value: float, said: str) -> None:
    assert share(value) == said


def test_figures_are_the_same_bytes_and_samples_that_are_not_there_are_refused(tmp_path: Path) -> None:
    made = rewriting(maps=torch.rand(2, 4, 2, 2), labels=["hat", NASTY, "shoe"])
    for name in ("a.png", "b.png"):
        made.plot(tmp_path / name, sample=1)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert made.to_html(tmp_path / "page.html").is_file()
    with pytest.raises(Misuse, match="sample 2 does not exist"):
        made.plot(sample=2)


def test_pictures_of_other_channels_cannot_be_drawn() -> None:
    with pytest.raises(Misuse, match="5 channels cannot be drawn"):
        rewriting(original=torch.rand(2, 5, 8, 8), pixels=torch.rand(2, 5, 8, 8)).shown()
