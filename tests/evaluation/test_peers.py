"""Environments of packages that we are measured beside: made once, and for just the packages that are asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, with a folder for environments of its own."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    found = importlib.import_module("peers")
    monkeypatch.setattr(found, "CACHE", tmp_path)
    return found


def test_an_environment_is_made_once_for_each_choice_of_packages(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(peers.venv, "create", lambda folder, **_: Path(folder).mkdir(exist_ok=True))
    monkeypatch.setattr(peers.subprocess, "run", lambda line, **_: asked.append(line) or SimpleNamespace(returncode=0))
    peers.Peer("one", ("a==1", "b"), ("c==2",)).make()
    assert [line[0] for line in asked] == [str(tmp_path / "one" / "bin" / "python")] * 2
    assert [line[-2:] for line in asked] == [["a==1", "b"], ["--no-deps", "c==2"]]
    peers.Peer("one", ("a==1", "b"), ("c==2",)).make()
    assert len(asked) == 2
    peers.Peer("one", ("a==1", "b"), ("c==3",)).make()
    assert len(asked) == 4


def test_an_environment_that_could_not_be_made_is_made_again(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = iter([1, 0, 0])
    monkeypatch.setattr(peers.venv, "create", lambda folder, **_: Path(folder).mkdir(exist_ok=True))
    monkeypatch.setattr(peers.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=next(codes)))
    peer = peers.Peer("one", ("a==1",), ("c==2",))
    with pytest.raises(SystemExit, match="could not install a==1"):
        peer.make()
    peer.make()
    assert next(codes, None) is None
