"""Results as plain values, as JSON and as rows of a table."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from regard.errors import Misuse, nearest
from regard.explanation.raw_inputs import Raw, Sound, Text, words_of
from regard.explanation.writing import write_atomically

COLUMNS = ("sample", "stream", "number", "token", "start", "end", "special", "row", "column", "score")
PlaceOf = Callable[[str, int], dict[str, int]]
"""Where a token of a stream lies on its grid: {} for streams that have none."""


def raws_as_dicts(inputs: Mapping[str, Sequence[Raw]], scores: Mapping[str, Tensor]) -> dict[str, list[dict[str, Any]]]:
    """The raw inputs of each stream without pixels and samples; a text's words with their scores."""
    return {
        stream: [_raw(raw, own) for raw, own in zip(raws, scores[stream].tolist(), strict=False)]
        for stream, raws in inputs.items()
    }


def _raw(raw: Raw, scores: Sequence[float]) -> dict[str, Any]:
    """A raw input's fields; a text's words with their scores."""
    made = {f.name: getattr(raw, f.name) for f in dataclasses.fields(raw) if f.name not in ("pixels", "samples")}
    if isinstance(raw, Text):
        return made | {"words": [w._asdict() for w in words_of(raw, scores)]}
    if isinstance(raw, Sound):
        return made | {"seconds": raw.seconds, "times": raw.times(len(scores))}
    return made | {"size": list(raw.pixels.shape[:2])}


def defined(value: Any) -> Any:
    """Plain values in which what is no number is None, as JSON has it."""
    if isinstance(value, dict):
        return {k: defined(v) for k, v in value.items()}
    if isinstance(value, list):
        return [defined(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json_file(made: dict[str, Any], path: str | os.PathLike[str] | None) -> str | Path:
    """JSON as a string, or in a file."""
    text = json.dumps(made, ensure_ascii=False, allow_nan=False)
    return text if path is None else write_atomically(path, text.encode("utf-8", "surrogatepass"))


def rows(scores: Mapping[str, Tensor], inputs: Mapping[str, Sequence[Raw]], place: PlaceOf) -> Iterator[dict[str, Any]]:
    """One row a token of every sample and stream, by COLUMNS."""
    for stream, batch in scores.items():
        raws = inputs.get(stream, ())
        for sample, own in enumerate(batch.tolist()):
            raw = raws[sample] if sample < len(raws) else None
            times = raw.times(len(own)) if isinstance(raw, Sound) else []
            for number, score in enumerate(own):
                known = _cell(raw, number, times) or place(stream, number)
                at = {"sample": sample, "stream": stream, "number": number, "score": score}
                yield dict.fromkeys(COLUMNS) | known | at


def _cell(raw: Raw | None, number: int, times: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """What is known of one token: where it stands in its text (characters) or in its sound (seconds)."""
    if isinstance(raw, Sound):
        start, end = times[number]
        return {"token": f"{start:.2f}–{end:.2f} s", "start": start, "end": end}
    if isinstance(raw, Text) and number < len(raw.tokens):
        start, end = raw.offsets[number]
        return {"token": raw.tokens[number], "start": start, "end": end, "special": raw.special[number]}
    return {}


BACKENDS = ("pandas", "polars")


def frame(found: Sequence[dict[str, Any]], backend: str | None = None) -> Any:
    """Rows as a DataFrame of pandas, else of polars, or of the one that is named.

    Raises Misuse where it is not installed, UnknownName for another name.
    """
    if backend is not None and backend not in BACKENDS:
        raise nearest(str(backend), BACKENDS, "backend")
    for name in BACKENDS if backend is None else (backend,):
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        if name == "polars":
            return library.DataFrame(list(found), infer_schema_length=None)
        return library.DataFrame(found).convert_dtypes()
    if backend is None:
        raise Misuse(
            "to_dataframe needs pandas or polars, and neither is installed: pip install pandas, or use to_rows()"
        )
    raise Misuse(f"to_dataframe needs {backend}, which is not installed: pip install {backend}, or name no backend")
