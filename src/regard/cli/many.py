"""`regard explain` of many inputs: each in a folder of its own, which is there when it is whole, and an index of all of them.

One input after the other is read, explained, drawn in a hidden folder and moved into place; nothing of it stays in memory. What
cannot be explained is put down with its reason. After Ctrl-C the index tells what is done, and `--resume` goes on from there.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from regard.cli.data_out import DataOut
from regard.cli.explaining import Explaining
from regard.cli.files import slug
from regard.cli.journal import JOURNAL, PAGE, Journal
from regard.cli.progress import Counted, ProgressLine, progress
from regard.cli.sources import OneInput, Sources
from regard.cli.terminal import as_table, in_options, one_line, stdout, unforeseen
from regard.errors import Failure, InputError, ModelError, RegardError
from regard.explanation.counts import quantity
from regard.report.index.entries import IndexEntry

HIDDEN = ".regard-"
THUMBNAIL = "thumbnail.png"
SHOWN = 20  # lines of the table that is printed
TIDIED = 16  # garbage is looked for after so many inputs: what a run leaves behind may hold the model's tensors


@dataclass
class OwnFolders:
    """A folder's name for each input, by its own name; the same ones are numbered, in the order of the inputs."""

    taken: set[str] = field(default_factory=lambda: {JOURNAL, PAGE})
    counts: dict[str, int] = field(default_factory=dict)

    def of(self, stem: str) -> str:
        """The next one's: letters, digits, dots, dashes and underscores, in no case the same as another."""
        base = slug(stem)
        key = base.casefold()
        while True:
            count = self.counts[key] = self.counts.get(key, 0) + 1
            name = base if count == 1 else f"{base}-{count}"
            if name.casefold() not in self.taken:
                self.taken.add(name.casefold())
                return name


@dataclass(frozen=True)
class ManyInputs:
    """A run over many inputs.

    Attributes:
        explaining: what is asked of each. sources: the inputs. journal: what is done. about: the run, in a sentence.
        data: what is written beside the pages. page: whether pages and pictures are drawn.
    """

    explaining: Explaining
    sources: Sources
    journal: Journal
    about: str
    data: DataOut
    page: bool = True
    quiet: bool = False

    def run(self) -> list[IndexEntry]:
        """Explain all that is not done yet; the entries of all, in order.

        Raises ModelError where the model cannot be explained, InputError where the folder cannot be written.
        """
        self.explaining.check_targets()
        self._tidy()
        kind = self.explaining.pair.kind
        counted, folders = Counted(self.sources.count(kind)), OwnFolders()
        with self._kept(counted), progress(counted, self.quiet) as told:
            for item in self.sources.items(kind):
                told.told(item.name)
                self._one(item, folders.of(item.stem), kind, counted, told)
        return self._finished(counted)

    def _tidy(self) -> None:
        """Remove what an earlier run that was killed had not finished drawing."""
        for left in self.journal.out.glob(f"{HIDDEN}*") if self.journal.known else ():
            shutil.rmtree(left, ignore_errors=True)

    def _one(self, item: OneInput, folder: str, kind: str, counted: Counted, told: ProgressLine) -> None:
        """One input: known from an earlier run, explained now, or put down as failed."""
        stamp = item.stamp(kind)
        entry = self.journal.done(folder, stamp)
        worked = entry is None
        if entry is None:
            entry = self._entry(item, folder, stamp, first=counted.done == counted.failed)
            if counted.worked % TIDIED == 0:
                gc.collect()
        if entry.error:
            told.failed(_of(entry))
        counted.step(bool(entry.error), worked)
        with self._writing():
            self.journal.add(folder, entry)

    def _entry(self, item: OneInput, folder: str, stamp: str, first: bool) -> IndexEntry:
        kind = self.explaining.pair.kind
        try:
            found = self.explaining.found(item.read(kind), item.target)
            if not found:
                raise InputError("nothing was found that could be explained")
            with self._aside() as work, self._writing():
                drawn = self._drawn(item.name, found, work)
                self._publish(work, folder)
            return IndexEntry(item.name, stamp, folder, **drawn)
        except RegardError as e:
            if first and isinstance(e, ModelError):  # it would be the same for all of them
                raise
            if isinstance(e.__cause__, _NotWritten):
                raise
            return IndexEntry(item.name, stamp, error=one_line(in_options(str(e))))
        except Exception as e:  # whatever a model makes of one input; the others may be well
            return IndexEntry(item.name, stamp, error=one_line(unforeseen(e)))

    def _drawn(self, name: str, found: Sequence[Any], work: Path) -> dict[str, Any]:
        """Draw the page and pictures of one input; what the index says of it."""
        from regard.report.index.html import described, thumbnail

        written = [f if isinstance(f, tuple) else (name, f) for f in found]
        self.data.pieces(written, work)
        made = described([f for _, f in written])
        if not self.page:
            return made
        page, *_ = self.explaining.render(found)(found, work)
        small = thumbnail([f for _, f in written])
        if small is not None:
            (work / THUMBNAIL).write_bytes(small)
        return made | {"page": page, "thumbnail": THUMBNAIL if small is not None else ""}

    @contextlib.contextmanager
    def _aside(self) -> Iterator[Path]:
        """A hidden folder, which is gone afterwards."""
        with self._writing():
            self.journal.out.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=HIDDEN, dir=self.journal.out))
        try:
            (work / "new").mkdir()
            yield work / "new"
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _publish(self, work: Path, folder: str) -> None:
        """Move what was drawn to its place; what was there before goes with the hidden folder."""
        final = self.journal.out / folder
        if os.path.lexists(final):
            final.replace(work.parent / "old")
        work.replace(final)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A folder that cannot be written ends the run."""
        try:
            yield
        except OSError as e:
            raise InputError(f"{self.journal.out} cannot be written: {e.strerror or e}") from _NotWritten()

    @contextlib.contextmanager
    def _kept(self, counted: Counted) -> Iterator[None]:
        """Whatever ends the run early: the index tells what is done."""
        try:
            yield
        except BaseException as e:
            if self.journal.entries:
                with contextlib.suppress(OSError, RegardError):
                    self.journal.write()
                    self._index(counted.total)
            if isinstance(e, KeyboardInterrupt):
                done = len(self.journal.all)
                goes = "; the same command with --resume goes on" if done else ""
                raise KeyboardInterrupt(f"interrupted: {done} of {counted.total} inputs are done{goes}") from None
            raise

    def _finished(self, counted: Counted) -> list[IndexEntry]:
        with self._writing():
            self.journal.out.mkdir(parents=True, exist_ok=True)
            self.journal.complete()
            self._index(counted.total)
        entries = [*self.journal.entries.values()]
        self.data.join([self.journal.out / e.folder for e in entries if not e.error])
        return entries

    def _index(self, total: int) -> None:
        """The page of all that is done."""
        if not self.page:
            return
        from regard.report.index.html import write_index

        write_index(self.journal.all, total, self.about, self.journal.out / PAGE)


def show_entries(entries: Sequence[IndexEntry]) -> None:
    """Print what was predicted of the first inputs, and how many there are."""
    done = [e for e in entries if not e.error]
    rows = [
        [one_line(e.name), one_line(f"{e.prediction} {e.share}".strip()), one_line(", ".join(e.targets))]
        for e in done[:SHOWN]
    ]
    if rows:
        stdout().print(as_table(["input", "prediction", "explained"], rows))
    typer.echo(
        f"{quantity(len(done), 'input')} explained" + (f"; the first {SHOWN} are shown" if len(done) > SHOWN else "")
    )


def check_failed(entries: Sequence[IndexEntry], out: Path) -> None:
    """Raise Failure where some inputs could not be explained."""
    failed = [e for e in entries if e.error]
    if failed:
        raise Failure(
            f"{len(failed)} of {len(entries)} inputs could not be explained"
            f"{', among them' if len(failed) > 1 else ''}: {_of(failed[0])}"
            + (f" (all are listed in {out / JOURNAL})" if len(failed) > 1 else "")
        )


def _of(entry: IndexEntry) -> str:
    """Why an input failed, with its name."""
    return entry.error if entry.name in entry.error else f"{entry.name}: {entry.error}"


class _NotWritten(Exception):
    """The output folder could not be written."""


__all__ = ["ManyInputs", "OwnFolders", "check_failed", "show_entries"]
