"""A place where a run keeps its rows: a folder, or anywhere that fsspec reaches.

manifest.json                   the plan, and the fingerprints of model, data and code
rows/shard-000000.parquet ...   one file for each finished shard, there whole or not at all
README.md                       how anybody reads them
costs.json                      what a map costs by each method, where that was asked for
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from regard.errors import Failure, InputError, Misuse
from regard.evaluation.leaderboard import Cost
from regard.evaluation.plan import FORMAT, Plan, Shard, check_same
from regard.evaluation.store.columns import about_of
from regard.evaluation.store.lock import LEASE, LOCK, Lease, can_lock, disk_lock
from regard.explanation.writing import write_atomically
from regard.extras import brought_by

MANIFEST, ROWS, README, COSTS = "manifest.json", "rows", "README.md", "costs.json"
COSTS_FORMAT = "regard-costs-1"
OWN = (LOCK, LEASE, README)
"""What may be there before there is a manifest."""
LOOKS = 16
"""Files that are looked at side by side: a cloud answers slowly, and many at a time."""
HALF = ".regard-"
"""How files begin that are being written on a disk."""


class Store:
    """A run's place, by its name: a path, or an address such as s3://bucket/runs/x.

    Attributes:
        out: the name. fs, home: the fsspec file system, and the place in it. folder: of a place on a disk, its path.
        lease: what keeps others out while the store is held, where its place has no locks.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out = os.fspath(out)
        if not self.out.strip():
            raise Misuse("out= is empty; give a folder for the rows")
        core = brought_by("store", "fsspec.core")
        try:
            self.fs, self.home = core.url_to_fs(os.path.expanduser(self.out))
        except (ImportError, ValueError) as e:
            raise Misuse(f"{self.out} cannot be reached: {e}") from e
        local = "file" in ((self.fs.protocol,) if isinstance(self.fs.protocol, str) else self.fs.protocol)
        self.folder = Path(self.home) if local else None
        self.lease: Lease | None = None

    def path(self, *names: str) -> str:
        """The place of a file."""
        return "/".join([self.home.rstrip("/"), *names])

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What the manifest says; None where there is none. Raises InputError where it is no manifest of a run."""
        try:
            made = json.loads(self.fs.cat_file(self.path(MANIFEST)))
            if made["format"] != FORMAT:
                raise ValueError(f"format {made['format']!r}")
            return Plan(**made["plan"]).as_dict()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise InputError(f"{self.path(MANIFEST)} is not the manifest of a run ({e}); give another folder") from e

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out. Raises Misuse where one is at work, or where a folder holds other files, which gets no lock; and
        InputError for a place that cannot be written."""
        self._check_ours(self.manifest)
        with contextlib.ExitStack() as stack:
            try:
                if self.folder is not None:
                    self.folder.mkdir(parents=True, exist_ok=True)
                if self.folder is None or not self._locked(stack, self.folder):
                    self.lease = stack.enter_context(Lease(self.fs, self.path(LEASE), self.out).held())
            except OSError as e:
                raise InputError(f"{self.out} cannot be written: {e.strerror or e}; give another folder") from e
            yield

    def _locked(self, stack: contextlib.ExitStack, folder: Path) -> bool:
        """Take the lock of a folder; False where its disk has none."""
        if not can_lock():
            return False
        try:
            stack.enter_context(disk_lock(folder, self.out))
        except OSError as e:
            if e.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            return False
        return True

    def begin(self, plan: Plan) -> None:
        """Write the manifest of a new run, or see that an earlier one had the same plan; clear what a killed run left.

        Raises Misuse, which names what differs, where the plans do; and for a folder with other files in it.
        """
        then = self.manifest
        self._check_ours(then)
        if then is not None:
            check_same(then, plan.as_dict(), self.out)
        with self.writing():
            for left in self._half_written():
                left.unlink(missing_ok=True)
            if then is None:
                self._put(MANIFEST, json.dumps({"format": FORMAT, "plan": plan.as_dict()}, indent=1).encode())
            if README not in self._names():
                self._put(README, readme(self.out, plan, self.folder is not None).encode())

    def _check_ours(self, manifest: Mapping[str, Any] | None) -> None:
        """Raise Misuse for a folder of other files."""
        others = [n for n in self._names() if n not in OWN and not n.startswith(HALF)]
        if manifest is None and others:
            raise Misuse(f"{self.out} holds other files ({others[0]}), and no run; give a new folder")

    def _half_written(self) -> list[Path]:
        """The files of a disk that a killed run was writing."""
        if self.folder is None:
            return []
        every = [*self.folder.glob(".*"), *(self.folder / ROWS).glob(".*")]
        return [f for f in every if f.name.startswith(HALF)]

    def _names(self) -> list[str]:
        try:
            return sorted(str(p).rstrip("/").rpartition("/")[2] for p in self.fs.ls(self.home, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def done(self, plan: Plan) -> set[int]:
        """The numbers of the shards of this plan that are there, whole."""
        there = {Path(p).name for p in self.files()}
        return {
            number for number, fault in self._looked_at(plan, [s for s in plan.shards if s.name in there]) if not fault
        }

    def check(self, plan: Plan) -> None:
        """Raise InputError where a file among the rows is not whole, or is none of this plan's."""
        own, there = {s.name: s for s in plan.shards}, [Path(p).name for p in self.files()]
        for name in there:
            if name not in own:
                raise InputError(f"{self.path(ROWS, name)} is of another run; remove it")
        for number, fault in self._looked_at(plan, [own[name] for name in there]):
            if fault:
                name = plan.shards[number].name
                raise InputError(f"{self.path(ROWS, name)} {fault}; the same regard evaluate makes it anew")

    def _looked_at(self, plan: Plan, shards: Sequence[Shard]) -> Iterator[tuple[int, str]]:
        """Their numbers, and what is wrong with their files; "": nothing."""
        digest = plan.digest
        with ThreadPoolExecutor(LOOKS) as looks:
            yield from looks.map(lambda s: (s.number, self._fault(s, digest)), shards)

    def _fault(self, shard: Shard, digest: str) -> str:
        with self.fs.open(self.path(ROWS, shard.name), "rb") as opened:
            about = about_of(opened)
        if about is None:
            return "is damaged or not whole"
        return "" if (about.get("plan"), about.get("shard")) == (digest, shard.number) else "is of another run"

    def publish(self, shard: Shard, data: bytes) -> None:
        """Put a finished shard in its place: whole, or not at all. Raises Failure where it cannot be written."""
        self._check_held()
        with self.writing():
            self._put(f"{ROWS}/{shard.name}", data)

    def costs(self) -> dict[str, Cost]:
        """What a map costs by each method; empty where that was not measured. Raises InputError for a file that is damaged."""
        try:
            made = json.loads(self.fs.cat_file(self.path(COSTS)))
            if made["format"] != COSTS_FORMAT:
                raise ValueError(f"format {made['format']!r}")
            return {str(title): Cost(**cost) for title, cost in made["costs"].items()}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise InputError(
                f"{self.path(COSTS)} does not hold the costs of methods ({e}); remove it, and measure them again with --costs"
            ) from e

    def put_costs(self, costs: Mapping[str, Cost]) -> None:
        """Write them, in the place of those that are there."""
        self._check_held()
        made = {title: dataclasses.asdict(cost) for title, cost in costs.items()}
        with self.writing():
            self._put(COSTS, json.dumps({"format": COSTS_FORMAT, "costs": made}, indent=1).encode())

    def _check_held(self) -> None:
        """Raise Failure where a lease was lost since."""
        if self.lease is not None:
            self.lease.check()

    def _put(self, name: str, data: bytes) -> None:
        if self.folder is not None:
            write_atomically(self.folder / name, data)
        else:
            self.fs.pipe_file(self.path(*name.split("/")), data)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A disk that is full, or a place that is gone, ends the run in one sentence."""
        try:
            yield
        except (OSError, NotImplementedError, InputError) as e:
            first = e.__cause__ if isinstance(e, InputError) else e
            why = (
                getattr(first, "strerror", None) or str(first or e) or f"{type(self.fs).__name__} is for reading alone"
            )
            raise Failure(
                f"{self.out} cannot be written: {why}; what is done is kept, and the same command goes on from there"
            ) from e

    def files(self) -> list[str]:
        """The Parquet files, in order of their shards, as fsspec addresses."""
        self.fs.invalidate_cache()
        return sorted(str(p) for p in self.fs.glob(self.path(ROWS, "shard-*.parquet")))


def readme(out: str, plan: Plan, local: bool) -> str:
    """What stands in the folder for whoever finds it; `local`: they are in it when they read it."""
    methods = ", ".join(m["title"] for m in plan.methods)
    here = "" if local else f"{out.rstrip('/')}/"
    return README_TEXT.format(
        out=out,
        here=here,
        model=plan.model["name"],
        data=plan.data["source"],
        methods=methods,
        protocols="".join(f"- `{p['name']}`\n" for p in plan.protocols),
    )


README_TEXT = '''\
# A run of `regard evaluate`

Model `{model}`, data `{data}`, methods {methods}. Protocols, with every choice that their numbers depend on:

{protocols}
`manifest.json` holds the whole plan, and `costs.json`, where it is there, what a map costs by each method. Each file in
`rows/` holds the rows of one shard of examples: a row for each number of an example (`metric`, `value`), for each point of a
curve (`x` says where), and for each example that failed (`error` says why).

`regard results {out}` prints the table and draws the page. To read the rows without Regard, from this folder:

```python
import pandas
rows = pandas.read_parquet("{here}rows")

import polars
rows = polars.read_parquet("{here}rows/*.parquet")

import duckdb
duckdb.sql("""
    SELECT title, protocol, metric, avg(value) FROM '{here}rows/*.parquet'
    WHERE x IS NULL AND error = '' AND NOT isnan(value) GROUP BY ALL
""")
```

Regard's reference, "The columns of a run", says what each column is. Values that are undefined are NaN; `x` is null except on
curves.
'''

__all__ = ["MANIFEST", "ROWS", "Store"]
