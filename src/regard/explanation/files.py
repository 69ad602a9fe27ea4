"""How results are kept: safetensors with JSON in the header (no pickle, safe to open), see writing.py for how."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from regard.errors import InputError
from regard.explanation.loading import Damaged, box, check, finite, loading, of_file, spans
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


def unpacked(
    path: str | os.PathLike[str], format: str, what: str
) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
    """The header of a file, its raw inputs as `Picture` and `Text` again, the tensors; and fields that are not known.

    Raises InputError for a file that is missing, damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    reading = f"{path} cannot be read as a saved {what}"
    try:
        with safe_open(os.fspath(path), framework="pt") as f:
            meta = f.metadata() or {}
            if meta.get("format") != format:
                raise InputError(f"{path} is not {article(what)} saved by this version of Regard ({format})")
            header = _object(meta.get("json", ""))
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except InputError:
        raise
    except (SafetensorError, OSError, ValueError, RecursionError, OverflowError) as e:
        raise InputError(f"{reading}: {(str(e).splitlines() or [type(e).__name__])[0][:200]}") from e
    with loading(path) as unknown:
        check("inputs", header["inputs"], dict[str, list[dict[str, Any]]])
        header["inputs"] = {name: raws_of(name, entries, tensors) for name, entries in header["inputs"].items()}
    return header, tensors, unknown


def _object(text: str) -> dict[str, Any]:
    made = json.loads(text)
    if not isinstance(made, dict):
        raise ValueError("its header is no JSON object")
    return made


def file_of(format: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file with JSON in its header: the same bytes for the same content, whichever order its parts come in."""
    from safetensors.torch import save

    made = save(tensors, {"format": format, "json": json.dumps(header)})
    end = 8 + int.from_bytes(made[:8], "little")
    head = json.dumps(json.loads(made[8:end]), sort_keys=True).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + made[end:]


def article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiouAEIO' else 'a'} {noun}"


def raws_of(name: str, entries: list[Any], tensors: dict[str, Tensor]) -> list[Raw]:
    """The raw inputs of one stream from what `packed` made of them."""
    raws: list[Raw] = []
    for i, entry in enumerate(entries):
        if "box" in entry:
            raws.append(_picture(entry, tensors[f"pixels/{name}/{i}"]))
        elif "rate" in entry:
            raws.append(_sound(entry, tensors[f"samples/{name}/{i}"]))
        else:
            raws.append(_text(entry))
    return raws


def _picture(entry: dict[str, Any], pixels: Tensor) -> Picture:
    regions = tuple(map(box, entry.get("regions", ())))
    tiles = tuple(tuple(box(b)) for b in entry.get("tiles", ()))
    seen = box(entry["box"])
    made = of_file(Picture, entry, pixels=pixels, box=tuple(seen), regions=regions, tiles=tiles)
    if seen.area <= 0 or not made.pixels.numel():
        raise Damaged(f"the picture {made.name!r} is empty")
    return made


def _sound(entry: dict[str, Any], samples: Tensor) -> Sound:
    made = of_file(Sound, entry, samples=finite("a sound", samples))
    if min(made.rate, made.window, made.bands, 1 if made.hop is None else made.hop) <= 0:
        raise Damaged(f"the sound {made.name!r} has no length")
    return made


def _text(entry: dict[str, Any]) -> Text:
    length = len(entry["text"])
    cut = {k: spans(entry[k], length) for k in ("offsets", "words")}
    said = [(str(role), *spans([(a, b)], length)[0]) for role, a, b in entry.get("messages", ())]
    made = of_file(Text, entry, **cut, messages=said)
    if not len(made.tokens) == len(made.offsets) == len(made.special):
        raise Damaged(f"the tokens of {made.name!r} are {len(made.tokens)}, their places {len(made.offsets)}")
    return made


def as_json(value: Any) -> Any:
    """Tensors to lists, other unknown things to text, so that JSON can hold them."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
