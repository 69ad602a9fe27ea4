"""Files are there whole or not at all; links stay, and pipes and devices are written into."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from regard.cli.new_files import NewFiles
from regard.errors import InputError, Misuse
from regard.explanation.writing import opened_atomically, write_atomically


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_link_stays_and_what_it_leads_to_is_replaced(here: Path) -> None:
    Path("real").write_text("old")
    Path("link").symlink_to("real")
    Path("dangling").symlink_to("made")
    write_atomically("link", b"new")
    write_atomically("dangling", b"new")
    assert Path("link").is_symlink()
    assert Path("dangling").is_symlink()
    assert Path("real").read_text() == Path("made").read_text() == "new"
    assert names(here) == ["dangling", "link", "made", "real"]


def test_a_pipe_is_written_into(here: Path) -> None:
    os.mkfifo("pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_bytes()))
    with pytest.raises(InputError, match="nobody reads from this pipe"):
        write_atomically("pipe", b"lost")
    reader.start()
    for _ in range(2000):  # until the other end is open
        try:
            write_atomically("pipe", b"word")
            break
        except InputError:
            reader.join(0.005)
    reader.join()
    assert read == [b"word"]
    assert stat.S_ISFIFO(os.lstat("pipe").st_mode)


def test_a_device_is_written_into() -> None:
    before = os.lstat("/dev/null")
    write_atomically("/dev/null", b"word")
    assert os.lstat("/dev/null") == before
    if os.path.exists("/dev/full"):
        with pytest.raises(InputError, match="/dev/full cannot be written: No space left on device"):
            write_atomically("/dev/full", b"word")
        assert stat.S_ISCHR(os.lstat("/dev/full").st_mode)


@pytest.mark.parametrize("path", ["", ".", "file/below", "loop", "a\0b", "a\ud800", "n" * 300])
def test_what_cannot_be_written_is_said_in_one_sentence(path: str, here: Path) -> None:
    Path("file").write_text("mine")
    Path("loop").symlink_to("loop")
    with pytest.raises(InputError, match="cannot be written: ") as refused:
        write_atomically(path, b"word")
    assert "\n" not in str(refused.value)
    assert names(here) == ["file", "loop"]


def test_the_rights_are_those_of_any_new_file_or_of_the_one_that_was_there(here: Path) -> None:
    Path("plain").write_text("")
    Path("own").write_text("")
    Path("own").chmod(0o600)
    write_atomically("new", b"")
    write_atomically("own", b"")
    assert Path("new").stat().st_mode == Path("plain").stat().st_mode
    assert stat.S_IMODE(Path("own").stat().st_mode) == 0o600


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_what_is_not_finished(error: type[BaseException], here: Path) -> None:
    Path("file").write_text("old")

    def stopped() -> None:
        with opened_atomically("file") as opened:
            opened.write(b"half")
            raise error

    with pytest.raises(error):
        stopped()
    assert names(here) == ["file"]
    assert Path("file").read_text() == "old"


# ---------------------------------------------------------------- several files


def render(found: object, work: Path) -> list[str]:
    (work / "a").write_text("new")
    (work / "b").write_text("new")
    return ["a", "b"]


def written(out: Path, json: str = "deep/er/data.json") -> list[Path]:
    with NewFiles() as new:
        files = new.drawn([], out, render) + new.lines(json, ["1", "2"])
        new.place()
    return files


def test_several_files_are_placed_together(here: Path) -> None:
    assert written(here / "out") == [here / "out/a", here / "out/b", here / "deep/er/data.json"]
    assert Path("deep/er/data.json").read_text() == "1\n2\n"
    assert names(here) == ["deep", "out"]
    assert names(here / "out") == ["a", "b"]


@pytest.mark.parametrize("fails", range(6))
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_all_or_nothing(fails: int, error: BaseException, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the renames fails, also the last one: what stood there before stands there again."""
    Path("out").mkdir()
    Path("out/a").write_text("old")
    Path("deep").mkdir()
    Path("deep/data.json").write_text("old")
    replace, calls = os.replace, []

    def failing(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == fails + 1:
            raise error
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", failing)
        with pytest.raises((InputError, KeyboardInterrupt)):
            written(here / "out", "deep/data.json")
    assert names(here) == ["deep", "out"]
    assert names(here / "out") == ["a"]
    assert names(here / "deep") == ["data.json"]
    assert Path("out/a").read_text() == Path("deep/data.json").read_text() == "old"


def test_what_is_in_the_way_is_found_before_anything_is_lost(here: Path) -> None:
    Path("out/b").mkdir(parents=True)
    Path("out/a").write_text("old")
    with pytest.raises(InputError, match="out/b is in the way, and no file"):
        written(here / "out")
    assert names(here) == ["out"]
    assert Path("out/a").read_text() == "old"


def test_a_file_that_is_the_report_is_no_place_for_numbers(here: Path) -> None:
    with pytest.raises(Misuse, match="out/b is the name of the report or of a picture"):
        written(here / "out", "out/b")
    assert names(here) == []


def test_links_among_the_files_stay(here: Path) -> None:
    Path("out").mkdir()
    Path("real").write_text("old")
    Path("out/a").symlink_to("../real")
    written(here / "out")
    assert Path("out/a").is_symlink()
    assert Path("real").read_text() == "new"


def test_stdout_and_pipes_come_last(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with NewFiles() as new:
        assert new.lines("-", ["1"]) == new.lines("/dev/null", ["2"]) == []
        assert capsys.readouterr().out == ""
        new.place()
    assert capsys.readouterr().out == "1\n"
