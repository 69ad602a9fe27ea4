"""What a file can be beside a file: a pipe, a device, a link that leads round, a text that is none."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from pathlib import Path

import pytest

import regard
from regard.cli import commands as cli
from regard.cli.inputs import check_utf8, existing, read_input
from regard.cli.running import guarded
from regard.errors import InputError


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
    "arguments", [["un caf\udce9"], ["fine", "--target", "caf\udce9"], ["fine", "--text", "\udce9"]]
)
def test_words_that_are_no_utf8(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["explain", *arguments, "--model", "zoo/bert-sentiment"])
    assert ended.value.code == 2
    assert "is not UTF-8 text (character " in capsys.readouterr().err


def test_a_file_may_have_a_name_that_is_no_utf8() -> None:
    name = os.fsdecode(b"caf\xe9.txt")
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
