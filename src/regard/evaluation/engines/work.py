"""The work of a run: what turns one shard into the bytes of its file, the same in every engine."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from regard.errors import Misuse
from regard.evaluation.data.dataset import DataSet
from regard.evaluation.data.eraser import Document
from regard.evaluation.examples import Example
from regard.evaluation.plan import Shard
from regard.evaluation.protocols.protocol import MEMORY, MethodChoice, Protocol, Row, said
from regard.evaluation.protocols.rationale import Rationale
from regard.evaluation.runner import evaluate_documents, evaluate_rows
from regard.evaluation.store.columns import as_parquet
from regard.models.places import is_name
from regard.reader import load


@dataclass(frozen=True)
class Work:
    """What is asked of every shard. It is pickled for other processes: the model goes by its name where it has one.

    Attributes:
        model: a name, or the reader itself. plan: the digest of the plan. threads: of torch, in every engine alike. device:
            where a model that has a name runs, as in "cuda"; "": on the CPU.
        together: as `evaluate_rows` takes it.
    """

    model: Any
    data: DataSet
    methods: Sequence[MethodChoice]
    protocols: Sequence[Protocol]
    plan: str
    seed: int = 0
    batch: int = 16
    threads: int = 1
    memory_budget: int = MEMORY
    together: bool = False
    device: str = ""

    def reader(self) -> Any:
        """The model with its preprocessing, loaded where it has a name."""
        return on_device(load(self.model), self.device) if is_name(self.model) else self.model


def on_device(reader: Any, device: str) -> Any:
    """A reader whose model runs there; of several GPUs, on the one of this process's number."""
    if device == "cuda" and torch.cuda.device_count() > 1:
        number = multiprocessing.current_process().name.rpartition("-")[2]  # of a worker: SpawnProcess-3
        device = f"cuda:{int(number) % torch.cuda.device_count() if number.isdigit() else 0}"
    if device:
        reader.model.to(device)
    return reader


def checked_device(said: str | None, model: Any, here: bool) -> str:
    """A device as torch spells it; "" for none. here: whether this machine computes.

    Raises Misuse for one that torch does not know or that is not there, and for a model that is in memory, which runs where it
    is.
    """
    if said is None:
        return ""
    try:
        device = torch.device(said)
    except (RuntimeError, TypeError) as e:
        raise Misuse(f"device {said!r} is none that torch knows; give cpu, cuda or cuda:1") from e
    if device.type not in ("cpu", "cuda"):
        raise Misuse(f"device is cpu or cuda, not {said!r}")
    if not is_name(model):
        raise Misuse("a model that is in memory runs where it is: move it with model.to(...), and leave device out")
    if here and device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Misuse(f"there is no {said} here: torch sees {torch.cuda.device_count()} CUDA devices; leave device out")
    return str(device)


@dataclass
class Worker:
    """Computes shards, one after the other, with one copy of the model."""

    work: Work
    reader: Any

    def parquet(self, shard: Shard) -> bytes:
        """The file of one shard."""
        numbers = {self.work.data.name_of(i): i for i in range(shard.first, shard.last)}
        about = {"plan": self.work.plan, "shard": shard.number, "examples": len(shard)}
        return as_parquet(self.rows(shard), numbers, shard.number, about)

    def rows(self, shard: Shard) -> list[Row]:
        """The rows of one shard's examples: methods outer, then protocols, then examples."""
        work, numbers = self.work, range(shard.first, shard.last)
        of_words = [p for p in work.protocols if isinstance(p, Rationale)]
        others = [p for p in work.protocols if not isinstance(p, Rationale)]
        how = [(m.name, m.options) for m in work.methods]
        with one_way_of_counting(work.threads):
            rows: list[Row] = []
            if others:
                examples = [work.data.example(self.reader, i) for i in numbers]
                own: dict[str, Any] = {"memory_budget": work.memory_budget, "together": work.together}
                model = self.work.data.model_of(self.reader)
                rows += evaluate_rows(model, examples, how, others, seed=work.seed, batch=work.batch, **own)
            if of_words:
                read = [self._document(i) for i in numbers]
                good = [d for d in read if isinstance(d, Document)]
                rows += evaluate_documents(self.reader, good, how, of_words, seed=work.seed)
                bad = [e for e in read if isinstance(e, Example)]
                rows += [
                    dataclasses.replace(Row(p, e.name, error=e.error), **m.columns())
                    for m in work.methods for p in of_words for e in bad
                ]  # fmt: skip
            return rows

    def _document(self, number: int) -> Document | Example:
        """A text with its rationale; of what cannot be read, an example that says why."""
        name = self.work.data.name_of(number)
        try:
            found = self.work.data.document(self.reader, number)
            if found is None:
                raise Misuse("the data hold no rationales; this protocol needs them")
            return dataclasses.replace(found, name=name)
        except Exception as e:
            from regard.explanation.raw_inputs import Reading

            return Example(name, Reading({}), error=said(e))


@contextlib.contextmanager
def one_way_of_counting(threads: int) -> Iterator[None]:
    """So many threads, whatever the process had: sums in another order are other numbers."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


__all__ = ["Work", "Worker"]
