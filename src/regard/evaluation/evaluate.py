"""`evaluate`: methods under protocols on a data set, shard by shard, into a store that a killed run goes on with."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from regard.called import parts_of
from regard.errors import Failure, Misuse, ModelError, nearest
from regard.evaluation.data.dataset import DataSet, Given
from regard.evaluation.data.sources import data_set
from regard.evaluation.engines import local
from regard.evaluation.engines.costs import costs as measured
from regard.evaluation.engines.work import Work, checked_device, on_device
from regard.evaluation.examples import Example
from regard.evaluation.plan import Plan, Shard, planned
from regard.evaluation.protocols.protocol import MethodChoice
from regard.evaluation.protocols.words import Asked, asked_of, method_of
from regard.evaluation.runner import Choice
from regard.evaluation.store.results import Results
from regard.evaluation.store.store import Store
from regard.memory import budget_of
from regard.models.places import is_name
from regard.models.reading import RawReader
from regard.models.token_targets import kind_of
from regard.reader import load

ENGINES = ("local", "ray")
METHODS = ("random", "raw_attention", "gae")
"""What is evaluated where no methods are named: one method between the two floors."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        shards, examples: how many are done, of how many; those of an earlier run are among them. shard: the one that was
            published last, None before the first.
        rate: examples a second of this run. left: seconds that the rest will take at this rate; None: not known yet.
        measuring: when all examples are done, the method whose cost is being measured.
    """

    shards: int
    of_shards: int
    examples: int
    of_examples: int
    shard: Shard | None = None
    rate: float = 0.0
    left: float | None = None
    measuring: str = ""


Told = Callable[[Progress], None]


def evaluate(
    model: Any,
    data: Any = None,
    methods: Sequence[Choice] = METHODS,
    protocols: Sequence[Asked] | None = None,
    out: str | os.PathLike[str] = "regard-run",
    *,
    engine: str = "local",
    workers: int | None = None,
    seed: int = 0,
    examples: int | None = None,
    batch: int = 16,
    shard: int | None = None,
    threads: int = 1,
    memory_budget: int | float | str | None = None,
    device: str | None = None,
    together: bool = False,
    costs: bool = False,
    told: Told | None = None,
    **options: Any,
) -> Results:
    """Judge methods by protocols on a data set, and keep every row. Needs `regard[eval,store]`.

    The examples are cut into shards; the rows of a finished shard are one Parquet file in `out`, there whole or not at all. The
    same call again goes on where the last one ended, however it ended, and finished shards are not computed anew. What cannot
    be read or explained is a row with its error.

    Args:
        model: a name or folder as for `regard.load`, a Reader, or a module (then `data` are examples).
        data: a name such as "zoo/vit-scenes", a folder or a file of a kind that `evaluation.data.sources` lists, in words
            ("masks:FOLDER"), a `DataSet`, or a list of `Example`. None: the zoo's own, for a model of the zoo.
        methods: names, or (name, options), as in `regard.explain`.
        protocols: protocols, or their names with options in words: "perturbation", "segmentation(explained=predicted)".
            None: those that the data can be judged by.
        out: a folder, or an address that fsspec knows, as s3://bucket/runs/x.
        engine: "local", or "ray" for a cluster (needs `regard[ray]`).
        workers: processes, each with a copy of the model; None: one, which is this one.
        seed: of methods and orders that draw. examples: take so many of the data, from the first on; None: all.
        batch: examples that are explained together. shard: examples of a shard; None: as many as a batch.
        threads: of torch in each process: the same in every engine, so that rows are the same to the last digit.
        memory_budget: of copies of one example side by side, as in `regard.explain`.
        device: where a model that is given by its name runs: "cpu", or "cuda", where each worker takes a GPU in turn, and each
            task of a cluster has one of its own. None: the CPU; a model that is in memory runs where it is.
        together: explain methods without options in one call: faster, and the same rows but for rounding; the seconds of a map
            are then its share.
        costs: measure what a map costs by each method, in a process of its own, and keep that beside the rows; once for a run.
        told: is called with a `Progress` before the first shard and after each.
        options: of the data: labels={name: number}, split=, column=, ... as its kind takes them.

    Returns the `Results`, which read the store.

    Raises Misuse where `out` holds a run with another plan (what differs is named) or another run is at work there; Failure
    where `out` cannot be written any more, or workers die.
    """
    if engine not in ENGINES:
        raise nearest(engine, ENGINES, "engine")
    size = batch if shard is None else shard
    _check_numbers(batch=batch, shard=size, threads=threads, workers=1 if workers is None else workers)
    store = Store(out)
    place = checked_device(device, model, engine == "local")
    reader = reader_of(model)
    source = data_of(data, model, options)
    check_classes(reader, source)
    chosen = methods_of(methods)
    asked = asked_of(protocols, reader.kind, source)
    if not asked:
        raise Misuse("no protocol is named; name one at the least")
    count = len(source) if examples is None else min(examples, len(source))
    if count < 1:
        raise Misuse(f"{source.source} holds no examples" if examples is None else "examples must be 1 at the least")
    how: dict[str, Any] = {"seed": seed, "batch": batch, "threads": threads, "memory_budget": budget_of(memory_budget)}
    how["together"] = together
    runs_on = place or next((p.device.type for p in reader.model.parameters()), "cpu")
    plan = planned(model, reader, source, chosen, asked, count=count, shard=size, device=runs_on, **how)
    work = Work(model if is_name(model) else reader, source, chosen, asked, plan.digest, **how, device=place)
    if engine == "local":
        on_device(reader, place)
    with store.held():
        pace = carried_out(store, plan, lambda todo: _computed(engine, work, reader, todo, workers), told)
        if costs and not store.costs():
            store.put_costs(measured(work, pace.measure))
    return Results(store.out)


Computing = Callable[[Sequence[Shard]], Generator[tuple[Shard, bytes], None, None]]


def carried_out(store: Store, plan: Plan, computing: Computing, told: Told | None = None) -> Pace:
    """Have what a plan has left to do computed, and publish it shard by shard, in a store that is held; how far it is.

    Raises Failure where less came back than was asked for.
    """
    store.begin(plan)
    done = store.done(plan)
    pace = Pace.of(plan, done, told)
    pace.tell()
    try:
        with contextlib.closing(computing([s for s in plan.shards if s.number not in done])) as computed:
            for finished, rows in computed:
                store.publish(finished, rows)
                pace.tell(finished)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted: {pace.examples} of {plan.count} examples are done; the same command goes on from there"
        ) from None
    if pace.examples != plan.count:
        raise Failure(f"only {pace.examples} of {plan.count} examples came back; the same command goes on from there")
    return pace


def methods_of(methods: Sequence[Choice]) -> list[MethodChoice]:
    """The methods, their options checked. Raises Misuse where there is none, or where two would have one name in tables."""
    if isinstance(methods, str):
        raise Misuse(f"methods are a list: methods={parts_of(methods)!r}")
    chosen = [method_of(m) for m in methods]
    if not chosen:
        raise Misuse("no method is named; name one at the least")
    for choice in chosen:
        choice.check()
    titles = [choice.title for choice in chosen]
    if again := [t for t in titles if titles.count(t) > 1]:
        raise Misuse(f"the method {again[0]} is named twice; name it once, or give its baselines labels that differ")
    return chosen


def _check_numbers(**numbers: Any) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise Misuse(f"{name} must be a whole number of at least 1, not {value!r}")


@dataclass
class Pace:
    """How much of a plan is done, and how fast; what an earlier run had done does not count for the rate."""

    plan: Plan
    told: Told | None
    shards: int
    examples: int
    worked: int = 0
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, plan: Plan, done: set[int], told: Told | None) -> Pace:
        """Where so many shards are done already."""
        return cls(plan, told, len(done), sum(len(plan.shards[i]) for i in done))

    def tell(self, shard: Shard | None = None) -> None:
        """A shard was published; None: the run begins."""
        if shard is not None:
            self.shards, self.examples, self.worked = (
                self.shards + 1,
                self.examples + len(shard),
                self.worked + len(shard),
            )
        rate = self.worked / max(time.monotonic() - self.started, 1e-9)
        left = (self.plan.count - self.examples) / rate if rate else None
        self._tell(shard, rate, left)

    def measure(self, title: str) -> None:
        """The cost of a method is being measured."""
        self._tell(None, 0.0, None, title)

    def _tell(self, *more: Any) -> None:
        if self.told is not None:
            self.told(Progress(self.shards, len(self.plan.shards), self.examples, self.plan.count, *more))


def _computed(
    engine: str, work: Work, reader: Any, shards: Sequence[Shard], workers: int | None
) -> Generator[tuple[Shard, bytes], None, None]:
    """Shards as they are finished."""
    if not shards:
        return
    if engine == "ray":
        from regard.evaluation.engines.ray import on_cluster

        yield from on_cluster(work, shards, workers)
    elif workers is None or workers == 1:
        yield from local.in_this_process(work, reader, shards)
    else:
        yield from local.in_processes(work, shards, min(workers, len(shards)))


@dataclass
class Alone:
    """A module without a reader, on examples that are there already."""

    model: nn.Module
    kind: str = ""
    labels: tuple[str, ...] = ()
    processor: Any = None


def reader_of(model: Any) -> Any:
    if is_name(model):
        return load(model)
    if isinstance(model, RawReader | Alone):
        return model
    if isinstance(model, nn.Module):
        return Alone(model)
    raise Misuse(f"a model is a name, a folder, a Reader or a module, not a {type(model).__name__}")


DOES = {"next": "writes", "mask": "fills in words", "tags": "tags words", "span": "finds answers in a text"}
"""What models of texts do that say something of tokens."""


def check_classes(reader: Any, data: DataSet) -> None:
    """Refuse a model that puts no input into a class, where the data bring no way to ask it. Raises ModelError."""
    if isinstance(data, Given) or data.model_of(reader) is not reader.model:
        return
    does = DOES.get(kind_of(reader.model, "text"), "") if reader.kind == "text" else ""
    does = "finds objects" if getattr(reader, "detects", False) else does
    if does:
        raise ModelError(
            f"{type(reader.model).__name__} {does}, and methods are judged on models that put each input into a class; sets "
            "such as the zoo's own bring another way to ask"
        )


OWN = ("methods", "protocols", "examples", "workers", "threads", "minutes", "costs")
"""Arguments that are called by their plurals."""


def data_of(data: Any, model: Any, options: Mapping[str, Any]) -> DataSet:
    for name in options:
        if f"{name}s" in OWN:
            raise Misuse(f"there is no argument {name}=: it is called {name}s=")
    if isinstance(data, DataSet):
        found = data
    elif isinstance(data, list | tuple) and data and all(isinstance(e, Example) for e in data):
        found = Given(examples=list(data))
    elif data is None and is_name(model) and str(model).startswith("zoo/"):
        return data_set(str(model), **options)
    elif data is None:
        raise Misuse("data= is missing: give a folder, a file, or the name of a bundled set such as zoo/vit-scenes")
    elif is_name(data):
        return data_set(os.fspath(data), **options)
    else:
        raise Misuse(f"data are a name, a path, a DataSet or a list of Example, not a {type(data).__name__}")
    if options:
        raise Misuse(f"{next(iter(options))}= is for data that are given by their name")
    return found


__all__ = ["METHODS", "Progress", "evaluate"]
