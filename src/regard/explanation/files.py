"""How results are kept: safetensors with JSON in the header (no pickle, safe to open), see writing.py for how."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from regard.errors import InputError
from regard.explanation.boxes import Box
from regard.explanation.raw_inputs import Picture, Raw, Sound, Text


def packed(inputs: Mapping[str, Sequence[Raw]], tensors: dict[str, Tensor]) -> dict[str, list[dict[str, Any]]]:
    """Raw inputs as JSON values; the pixels of pictures go among the `tensors`."""
    out: dict[str, list[dict[str, Any]]] = {}
    for name, raws in inputs.items():
        out[name] = []
        for i, raw in enumerate(raws):
            entry = {
                f.name: getattr(raw, f.name) for f in dataclasses.fields(raw) if f.name not in ("pixels", "samples")
            }
            if isinstance(raw, Picture):
                tensors[f"pixels/{name}/{i}"] = raw.pixels.cpu().contiguous()
            elif isinstance(raw, Sound):
                tensors[f"samples/{name}/{i}"] = raw.samples.cpu().float().contiguous()
            out[name].append(entry)
    return out


def unpacked(path: str | os.PathLike[str], format: str, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header of a file, its raw inputs as `Picture` and `Text` again, and the tensors.

    Raises InputError for a file that is missing, damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as f:
            meta = f.metadata() or {}
            if meta.get("format") != format:
                raise InputError(f"{path} is not {article(what)} saved by this version of Regard ({format})")
            header = json.loads(meta["json"])
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except (SafetensorError, OSError, json.JSONDecodeError) as e:
        raise InputError(f"{path} cannot be read as a saved {what}: {e}") from e
    with checked(path, "its inputs cannot be read"):
        header["inputs"] = {name: raws_of(name, entries, tensors) for name, entries in header["inputs"].items()}
    return header, tensors


@contextmanager
def checked(path: str | os.PathLike[str], what: str = "a field is missing or wrong") -> Iterator[None]:
    """Raise InputError for what is not in a file's header as it should be."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as e:
        reason = (str(e).splitlines() or [""])[0]
        raise InputError(f"{path} is damaged: {what} ({type(e).__name__}: {reason})") from e


def article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiouAEIO' else 'a'} {noun}"


def raws_of(name: str, entries: list[Any], tensors: dict[str, Tensor]) -> list[Raw]:
    """The raw inputs of one stream from what `packed` made of them."""
    raws: list[Raw] = []
    for i, entry in enumerate(entries):
        if "box" in entry:
            regions = tuple(Box(*b) for b in entry.get("regions", ()))
            tiles = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in entry.get("tiles", ()))
            raws.append(Picture(tensors[f"pixels/{name}/{i}"], tuple(entry["box"]), entry["name"], regions, tiles))
        elif "rate" in entry:
            raws.append(Sound(samples=tensors[f"samples/{name}/{i}"], **entry))
        else:
            spans: dict[str, Any] = {k: [(int(a), int(b)) for a, b in entry[k]] for k in ("offsets", "words")}
            spans["messages"] = [(str(role), int(a), int(b)) for role, a, b in entry.get("messages", ())]
            raws.append(Text(**(entry | spans)))
    return raws


def as_json(value: Any) -> Any:
    """Tensors to lists, other unknown things to text, so that JSON can hold them."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
