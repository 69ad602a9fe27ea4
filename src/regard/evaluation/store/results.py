"""A run's rows, read again with DuckDB. They go through the same summaries as those of the runner in memory."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from regard.errors import InputError, nearest
from regard.evaluation.leaderboard import RunRows
from regard.evaluation.measured import Examples, MethodColumns
from regard.evaluation.plan import Plan
from regard.evaluation.protocols.protocol import Protocol, Row
from regard.evaluation.protocols.table import PROTOCOLS
from regard.evaluation.store.columns import COLUMNS
from regard.evaluation.store.command import command_of
from regard.evaluation.store.reading import examples_of, measured_rows
from regard.evaluation.store.store import MANIFEST, Store
from regard.evaluation.summaries import Summary, summaries
from regard.explanation.writing import write_atomically
from regard.extras import brought_by

SUMMARY = (
    "protocol", "method", "site", "baseline", "metric", "value", "low", "high", "examples", "undefined", "errors",
)  # fmt: skip
"""The columns of a table of summaries as CSV."""
AT_ONCE = 10_000_000
"""Rows that are in memory at once where methods are looked at one by one: some 400 MB."""


class Results:
    """What a run has found so far.

    Attributes:
        out: the store. plan: what its manifest says.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.store = Store(out)
        self.out = self.store.out
        plan = self.store.manifest
        if plan is None:
            raise InputError(f"{self.out} holds no run (there is no {MANIFEST}); give the out= of regard.evaluate")
        self.plan: Mapping[str, Any] = plan

    def __repr__(self) -> str:
        return f"Results({self.out!r}, {self.examples} of {self.plan['count']} examples)"

    @property
    def titles(self) -> list[str]:
        """What tables call the methods, in order."""
        return [m["title"] for m in self.plan["methods"]]

    @cached_property
    def protocols(self) -> list[Protocol]:
        """In order. Raises UnknownName for one that this version of Regard does not know."""
        return [_protocol(p["kind"], json.dumps(p["choices"])) for p in self.plan["protocols"]]

    @cached_property
    def _database(self) -> Any:
        """DuckDB with the rows as the views `rows` and `placed`. Raises InputError for a damaged file or another run's."""
        self.store.check(Plan(**self.plan))
        found = brought_by("store", "duckdb").connect()
        found.execute("SET enable_progress_bar = false")  # it would be drawn on stdout, into what is printed there
        home = Path(tempfile.gettempdir()) / f"regard-duckdb-{os.getpid()}"
        found.execute(
            f"SET temp_directory = '{str(home).replace(QUOTE, QUOTE * 2)}'"
        )  # and not .tmp in the working directory
        files = self.store.files()
        place = "file_row_number"
        if self.store.folder is None:
            found.register_filesystem(self.store.fs)
            scheme = self.store.fs.protocol if isinstance(self.store.fs.protocol, str) else self.store.fs.protocol[0]
            files = [f"{scheme}://{f.lstrip('/')}" for f in files]
        if files:
            read = ", ".join("'" + f.replace("'", "''") + "'" for f in files)
            found.execute(f"CREATE VIEW placed AS SELECT * FROM read_parquet([{read}], {place} = true)")
        else:
            columns = ", ".join(f'"{name}" {SQL[kind]}' for name, kind in COLUMNS.items())
            found.execute(f"CREATE TABLE placed ({columns}, {place} BIGINT)")
        found.execute(f"CREATE VIEW rows AS SELECT * EXCLUDE ({place}) FROM placed")
        return found

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What DuckDB answers; the rows are the table `rows`, and ? in the query stands for the next of the values."""
        found: list[tuple[Any, ...]] = self._database.execute(query, list(values)).fetchall()
        return found

    @property
    def examples(self) -> int:
        """How many examples there are rows of."""
        return int(self.sql("SELECT count(DISTINCT number) FROM rows")[0][0])

    @property
    def complete(self) -> bool:
        """Whether all examples have rows."""
        return self.examples == int(self.plan["count"])

    def rows(self, protocol: str | None = None, title: str | None = None) -> list[Row]:
        """The rows, of one protocol by its name and one method by its title if asked, in the order of the runner in memory."""
        self._check_asked([] if protocol is None else [protocol], [] if title is None else [title])
        return [*self._rows(protocol, title)]

    def _check_asked(self, protocols: Sequence[str], titles: Sequence[str]) -> None:
        """Raise UnknownName for a name that is none of this run's."""
        own = {"protocol": [p.name for p in self.protocols], "method": self.titles}
        for what, asked in (("protocol", protocols), ("method", titles)):
            for name in asked:
                if name not in own[what]:
                    raise nearest(name, own[what], f"{what} of {self.out}")

    def _rows(self, protocol: str | None, title: str | None) -> Iterator[Row]:
        where = [f"{column} = ?" for column, v in (("protocol", protocol), ("title", title)) if v is not None]
        names = [n for n in COLUMNS if n not in ("shard", "number", "protocol")]
        columns = ", ".join(f'"{name}"' for name in names)
        query = (
            f"SELECT {columns} FROM placed"
            + (f" WHERE {' AND '.join(where)}" if where else "")
            + " ORDER BY list_position(?, title), list_position(?, protocol), number, file_row_number"
        )
        given = [v for v in (protocol, title) if v is not None]
        for values in self.sql(query, *given, self.titles, [p.name for p in self.protocols]):
            made = dict(zip(names, values, strict=True))
            kind, choices = made.pop("kind"), made.pop("choices")
            yield Row(_protocol(kind, choices), **made | {"options": json.loads(made["options"])})

    def measured(self, protocol: str, titles: Sequence[str] | None = None) -> list[MethodColumns]:
        """The rows of one protocol by its name as columns, of some methods by their titles or of all; methods in order."""
        asked = self.titles if titles is None else list(titles)
        self._check_asked([protocol], asked)
        own = next(p for p in self.protocols if p.name == protocol)
        return measured_rows(self._database, own, asked, *self._examples)

    @cached_property
    def _examples(self) -> tuple[Any, Examples]:
        return examples_of(self._database)

    @cached_property
    def summaries(self) -> list[Summary]:
        """Every metric of every method under every protocol, with its interval; `AT_ONCE` rows are read, or one method's."""
        found: dict[tuple[str, str], list[Summary]] = {}
        for protocol in self.protocols:
            for titles in self._at_once(protocol.name):
                for s in summaries(self.measured(protocol.name, titles), self.plan["seed"]):
                    found.setdefault((s.title, protocol.name), []).append(s)
        return [s for title in self.titles for p in self.protocols for s in found.get((title, p.name), ())]

    def _at_once(self, protocol: str) -> Iterator[list[str]]:
        """Methods whose rows under a protocol are read in one go."""
        query = "SELECT title, count(*) FROM rows WHERE protocol = ? GROUP BY title"
        some: list[str] = []
        counts, taken = dict(self.sql(query, protocol)), 0
        for title in self.titles:
            if some and taken + counts.get(title, 0) > AT_ONCE:
                yield some
                some, taken = [], 0
            some, taken = [*some, title], taken + counts.get(title, 0)
        yield some

    def as_run(self) -> RunRows:
        """What a leaderboard takes."""
        plan = self.plan
        same = {
            f"the {part}": json.dumps(plan[part], sort_keys=True) for part in ("model", "data", "seed", "memory_budget")
        }
        return RunRows(
            self.out, plan["model"]["name"], plan["data"]["source"], self.protocols, self.titles,
            lambda protocol: self.measured(protocol.name), self.examples, plan["count"], same, plan["seed"],
            command_of(plan, self.out), self.store.costs(), plan["code"],
        )  # fmt: skip

    @property
    def errors(self) -> list[tuple[str, str, int]]:
        """What failed: example, error, and in how many rows; in the order of the data."""
        found = self.sql(
            "SELECT example, error, count(*) FROM rows WHERE error != '' GROUP BY number, example, error "
            "ORDER BY number, error"
        )
        return [(e, why, int(n)) for e, why, n in found]

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write the summaries as CSV, a line for each metric of each method under each protocol."""
        return write_atomically(path, self.csv().encode())

    def csv(self) -> str:
        """The summaries as CSV."""
        written = io.StringIO()
        table = csv.writer(written, lineterminator="\n")
        table.writerow(SUMMARY)
        for s in self.summaries:
            about = (s.protocol.name, s.title, s.site, s.baseline, s.metric)
            table.writerow((*about, *s.value, s.examples, s.undefined, s.errors))
        return written.getvalue()

    def __str__(self) -> str:
        return self.table()

    def table(self, width: int = 100) -> str:
        """All numbers as text, so many letters wide."""
        return "\n\n".join(table_of(p, [s for s in self.summaries if s.protocol == p], width) for p in self.protocols)

    def failed(self) -> Counter[str]:
        """Error -> of how many examples."""
        return Counter(why for _, why, _ in self.errors)


QUOTE = "'"
SQL = {"int32": "INTEGER", "int64": "BIGINT", "string": "VARCHAR", "double": "DOUBLE"}


@cache
def _protocol(kind: str, choices: str) -> Protocol:
    if kind not in PROTOCOLS:
        raise nearest(kind, PROTOCOLS, "protocol of a stored row")
    made = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(choices).items()}
    return PROTOCOLS[kind](**made)


def table_of(protocol: Protocol, found: Sequence[Summary], width: int = 100) -> str:
    """One protocol's numbers as text: a line a method, a column a metric, in as many blocks as the width asks for."""
    metrics = list(dict.fromkeys(s.metric for s in found if s.metric))
    at = {(s.title, s.metric): "–" if math.isnan(s.value.value) else str(s.value) for s in found}
    titles = list(dict.fromkeys(s.title for s in found))
    columns = [[m, *(at.get((t, m), "") for t in titles)] for m in metrics]
    for what in ("examples", "errors"):
        counts = [max(getattr(s, what) for s in found if s.title == t) for t in titles]
        if what == "examples" or any(counts):
            columns.append([what, *map(str, counts)])
    lines = [protocol.name]
    for block in _blocks(["method", *titles], columns, width):
        widths = [max(map(len, column)) for column in block]
        lines += ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in zip(*block)]
        lines.append("")
    return "\n".join(lines[:-1])


def _blocks(names: list[str], columns: Sequence[list[str]], width: int) -> list[list[list[str]]]:
    """Columns beside one another as far as they fit, the names before each block."""
    blocks: list[list[list[str]]] = []
    for column in columns:
        taken = sum(max(map(len, c)) + 2 for c in (blocks[-1] if blocks else ())) + max(map(len, column))
        if not blocks or (taken > width and len(blocks[-1]) > 1):
            blocks.append([names])
        blocks[-1].append(column)
    return blocks


__all__ = ["Results", "table_of"]
