"""What a file can be beside a file: a pipe, a device, a link that leads round, a text that is none."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import regard
from regard.cli import commands as cli
from regard.cli.inputs import check_utf8, existing, read_input
from regard.cli.running import guarded
from regard.errors import InputError
from regard.reader import Reader
from support.folders import picture


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_pipe_is_read() -> None:
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_text("A fine film.\n"))
    writer.start()
    for _ in range(2000):  # until the other end is open
        try:
            assert read_input("pipe", "text") == ("A fine film.", "pipe")
            break
        except InputError:
            writer.join(0.005)
    writer.join()


def test_a_pipe_that_nobody_writes_into_is_not_waited_for() -> None:
    os.mkfifo("pipe")
    with pytest.raises(InputError, match="pipe is empty"):
        read_input("pipe", "text")


def test_a_device_has_no_end() -> None:
    with pytest.raises(InputError, match="/dev/zero is a device; give a file, or - for stdin"):
        read_input("/dev/zero", "text")
    with pytest.raises(InputError, match="/dev/zero is a device"):
        existing("/dev/zero")


def test_a_text_is_no_larger_than_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("large.txt").open("wb") as file:
        file.truncate(1 << 40)  # of zero bytes that are nowhere
    with pytest.raises(InputError, match=r"large\.txt is too large \(more than \d+ bytes\)"):
        read_input("large.txt", "text")


def test_a_link_that_leads_round() -> None:
    Path("loop").symlink_to("loop")
    with pytest.raises(InputError, match="no such file: loop"):
        read_input("loop", "text")


@pytest.mark.parametrize(
    "arguments", [["un fa\udce7ade"], ["fine", "--target", "fa\udce7ade"], ["fine", "--text", "\udce9"]]
)
def test_words_that_are_no_utf8(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["explain", *arguments, "--model", "zoo/bert-sentiment"])
    assert ended.value.code == 2
    assert "is not UTF-8 text (character " in capsys.readouterr().err


def test_a_file_may_have_a_name_that_is_no_utf8() -> None:
    name = os.fsdecode(b"fa\xe7ade.txt")
    Path(name).write_text("fine")
    check_utf8([name, ["fine"], None, 3])


@pytest.mark.parametrize("text", ["a\ud800", ("a", "b\udfff"), [{"role": "user", "content": "\ud800"}]])
def test_half_a_character_by_library(text: object) -> None:
    reader = regard.load("zoo/bert-sentiment")
    for call in (reader.explain, reader.inspect):
        with pytest.raises(InputError) as refused:
            call(text)
        assert "character" in str(refused.value) or "template" in str(refused.value)


@pytest.mark.parametrize("debug", [False, True])
def test_libraries_are_silent_but_for_debug(debug: bool, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("some_library")
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)

    @guarded
    def command(debug: bool) -> None:
        warnings.warn("how odd", stacklevel=1)
        logger.error("how very odd")

    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            command(debug=debug)
    finally:
        logger.removeHandler(handler)
    assert bool(warned) is debug
    assert ("how very odd" in capsys.readouterr().err) is debug
    assert logging.root.manager.disable == 0


def test_too_little_memory_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    @guarded
    def command(debug: bool) -> None:
        raise MemoryError

    with pytest.raises(cli.typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err.startswith("error: there is not enough memory for this")


class Misfit(torch.nn.Module):
    """A model that does not take what is read for it: it says so itself, or torch does."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own, self.head = own, torch.nn.Linear(5, 2)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if self.own:
            raise ValueError("Input image size (32*32) does not match the model")
        return self.head(pixel_values)


@pytest.mark.parametrize("own", [True, False])
def test_a_model_that_does_not_fit_what_reads_for_it(own: bool, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(Misfit(own).eval(), lambda image: torch.zeros(3, 32, 32), "image", ["a", "b"])
    monkeypatch.setattr(regard, "load", lambda name: reader)
    picture().save("cat.png")
    for values in (["cat.png"], ["cat.png", "cat.png"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(["explain", *values, "--model", "mine", "--out", "out"])
        said = capsys.readouterr().err
        assert ended.value.code == 1
        assert "the model cannot be run on this (" in said
        assert "do its weights, its config and what reads for it belong together?" in said
        assert "unexpected" not in said


def test_a_fault_of_our_own_is_not_laid_at_the_models_door(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: Any, **__: Any) -> None:
        raise ValueError("ours")

    monkeypatch.setattr("regard.recording.recorder.Recorder._followed", _ours(fault))
    with pytest.raises(SystemExit) as ended:
        cli.main(["explain", "fine", "--model", "zoo/bert-sentiment", "--out", "out"])
    assert ended.value.code == 1
    assert "ValueError: ours (unexpected; --debug shows where)" in capsys.readouterr().err


def _ours(fault: Any) -> Any:
    """A function that counts as one of Regard's rooms."""
    made = type(fault)(fault.__code__, {"__name__": "regard.recording.tokens.rules", "__builtins__": __builtins__})
    return lambda *args, **kwargs: made(*args, **kwargs)
