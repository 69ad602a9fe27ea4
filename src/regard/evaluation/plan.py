"""What a run is to do, and the fingerprints that tell it from any other: two runs with one plan have the same rows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import regard.version
from regard.errors import Misuse
from regard.evaluation.data.dataset import DataSet, files_digest
from regard.evaluation.protocols.protocol import MethodChoice, Protocol, label_of
from regard.evaluation.protocols.table import PROTOCOLS
from regard.models.places import is_name
from regard.zoo import in_zoo

FORMAT = "regard-run-1"
PROSE = (".md",)
"""Files of a model's folder that say something to people alone."""
PACKAGES = ("torch", "transformers", "numpy")


@dataclass(frozen=True)
class Shard:
    """Examples [first, last) of a run."""

    number: int
    first: int
    last: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"shard-{self.number:06}.parquet"

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Plan:
    """What is to be done, as the manifest keeps it.

    Attributes:
        model, data, code: what tells them from others. methods, protocols: with all their choices, in order. seed, threads,
            batch, memory_budget, device, together: what numbers depend on, to the last digit. shard: examples of a shard.
            count: of all examples.
    """

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    code: Mapping[str, str]
    methods: Sequence[Mapping[str, Any]]
    protocols: Sequence[Mapping[str, Any]]
    seed: int
    threads: int
    batch: int
    memory_budget: int
    shard: int
    count: int
    device: str = "cpu"
    together: bool = False

    @property
    def shards(self) -> Sequence[Shard]:
        """All shards in order."""
        return Shards(self.count, self.shard)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return found

    @property
    def digest(self) -> str:
        """What each shard carries, so that none of another plan is taken for one of this."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Shards(Sequence[Shard]):
    """Shards by number, none of them kept."""

    examples: int
    size: int

    def __len__(self) -> int:
        return -(-self.examples // self.size)

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return Shard(number, number * self.size, min(self.examples, (number + 1) * self.size))


def planned(
    model: Any, reader: Any, data: DataSet, methods: Sequence[MethodChoice], protocols: Sequence[Protocol], **how: Any
) -> Plan:
    """The plan of a run. `how`: seed, threads, batch, memory_budget, shard, count, device,
    together."""
    told = {"source": data.source, "kind": data.kind, "choices": data.choices(), "digest": data.digest()}
    return Plan(
        model_fingerprint(model, reader),
        told,
        code_fingerprint(),
        [{"method": m.name, "title": m.title, "options": spelled(m.options)} for m in methods],
        [_asked(p) for p in protocols],
        **how,
    )


def _asked(protocol: Protocol) -> dict[str, Any]:
    """A protocol as the store keeps it. Raises Misuse for one that no stored row could find again."""
    kind = type(protocol).__name__
    choices = {f.name: getattr(protocol, f.name) for f in dataclasses.fields(protocol)}  # type: ignore[arg-type]
    try:
        again = PROTOCOLS[kind](**json.loads(json.dumps(choices)))
    except (KeyError, TypeError, ValueError):
        again = None
    if again != protocol or type(again) is not type(protocol):
        raise Misuse(
            f"{kind} is not in the table of protocols (regard.evaluation.PROTOCOLS), so its rows could not be read again; "
            "add it there"
        )
    return {"kind": kind, "name": protocol.name, "choices": choices}


def spelled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON: a site or a baseline by its label, and with a digest of the tensors that it holds."""
    return {name: _spelled(value) for name, value in sorted(options.items())}


def _spelled(value: Any) -> Any:
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, Mapping):
        return {str(k): _spelled(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(v) for v in value]
    held = list(_tensors(value))
    return label_of(value) + (f" ({_state_digest(dict(enumerate(held)))})" if held else "")


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors that a choice holds."""
    if isinstance(value, torch.Tensor):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for f in dataclasses.fields(value):
            yield from _tensors(getattr(value, f.name))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


def model_fingerprint(model: Any, reader: Any) -> dict[str, Any]:
    """What tells a model from another: of a folder its files; of one in memory, or from the hub, its weights and config."""
    if is_name(model):
        folder = Path(in_zoo(model)).expanduser()
        if folder.is_dir():
            files = sorted(f for f in folder.iterdir() if f.is_file() and f.name[0] != "." and f.suffix not in PROSE)
            return {"name": str(model)} | {f.name: files_digest([f]) for f in files}
    module: nn.Module = reader.model
    config = getattr(module, "config", None)
    told = str(getattr(config, "to_json_string", config.__repr__)())
    processor = getattr(reader, "processor", None)
    return {
        "name": str(model) if is_name(model) else type(module).__name__,
        "weights": _state_digest(module.state_dict()),
        "config": hashlib.sha256(told.encode()).hexdigest()[:16],
        "processor": hashlib.sha256(repr(processor).encode()).hexdigest()[:16] if _is_plain(processor) else "",
    }


def _is_plain(processor: Any) -> bool:
    """Whether its `repr` says what it does, and not where it is in memory."""
    return processor is not None and " at 0x" not in repr(processor)


def _state_digest(state: Mapping[Any, Any]) -> str:
    """Of named tensors."""
    found = hashlib.sha256()
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            flat = value.detach().cpu().contiguous().flatten()
            found.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            found.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return found.hexdigest()[:16]


def code_fingerprint() -> dict[str, str]:
    """Versions, and a digest of the package's own code."""
    home = Path(regard.version.__file__).parent
    versions = {name: _version(name) for name in PACKAGES}
    own = {"regard": regard.version.__version__, "regard's code": files_digest(home.rglob("*.py"), home)}
    return own | versions | {"Python": ".".join(platform.python_version_tuple()[:2])}


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return "not installed"


def check_same(then: Mapping[str, Any], now: Mapping[str, Any], out: str) -> None:
    """Raise Misuse, which names what differs, where a run is to go on with another plan."""
    differ = [*_differences(dict(then), dict(now))]
    if differ:
        raise Misuse(
            f"{out} holds a run with another plan: {'; '.join(differ)}. Run it as it was to go on, or give another folder with "
            "out="
        )


def _differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for part in ("model", "data", "code"):
        a, b = then.get(part, {}), now.get(part, {})
        for name in [n for n in {**a, **b} if a.get(n) != b.get(n)]:
            yield _changed(part, name, a.get(name), b.get(name))
    for part, key in (("methods", "title"), ("protocols", "name")):
        a, b = ([_title(m, key) for m in plan.get(part, ())] for plan in (then, now))
        if a != b:
            yield f"the {part} are {_moved(a, b)}"
        elif then.get(part) != now.get(part):
            yield f"choices of the {part} changed"
    for name, said in COUNTS.items():
        if then.get(name) != now.get(name):
            yield f"{said} was {then.get(name)} and is {now.get(name)}"


def _moved(then: Sequence[str], now: Sequence[str]) -> str:
    """How a list differs from an earlier one."""
    gone, new = ([one for one in some if one not in others] for some, others in ((then, now), (now, then)))
    said = [f"{word} {', '.join(names)}" for word, names in (("without", gone), ("now with", new)) if names]
    return ", and ".join(said) or "in another order"


COUNTS = {
    "seed": "the seed",
    "threads": "the number of threads",
    "batch": "the batch",
    "memory_budget": "the memory budget",
    "shard": "the size of a shard",
    "count": "the number of examples",
    "device": "the device",
    "together": "whether methods share a call",
}
"""What else a plan says, in words."""


def _changed(part: str, name: str, a: Any, b: Any) -> str:
    """What differs of the model, the data or the code, in words."""
    if name in ("source", "name", "kind", "choices") or (part == "code" and name != "regard's code"):
        what = name if part == "code" else f"the {part}'s {name}" if name in ("kind", "choices") else f"the {part}"
        return f"{what} was {_plain(a)} and is {_plain(b)}"
    if part == "data":
        return "the content of the data changed"
    if part == "code":
        return "Regard's code changed"
    if name in ("weights", "config", "processor"):
        return f"the model's {name} changed"
    change = "is new" if a is None else "is gone" if b is None else "changed"
    return f"the model's file {name} {change}"


def _plain(value: Any) -> str:
    return "nothing" if value in (None, {}) else value if isinstance(value, str) else json.dumps(value)


def _title(said: Mapping[str, Any], key: str) -> str:
    """A method or a protocol with all its choices, where the name leaves some out."""
    options = said.get("options")
    return f"{said.get(key)} ({json.dumps(options)})" if options else str(said.get(key))


__all__ = ["FORMAT", "Plan", "Shard", "check_same", "planned"]
