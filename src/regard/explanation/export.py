"""Explanations as plain values, JSON, rows of a table; one sample of several as an explanation of its own."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from regard.errors import Misuse
from regard.explanation.explanation import Explanation
from regard.explanation.files import as_json, write_atomically
from regard.explanation.raw_inputs import Raw, Sound, Text, words_of
from regard.explanation.receipt import Measured, Receipt

if TYPE_CHECKING:
    from regard.explanation.generation import Generation

COLUMNS = ("sample", "stream", "number", "token", "start", "end", "special", "row", "column", "score")


def as_dict(exp: Explanation) -> dict[str, Any]:
    """All but pixels as plain values; undefined numbers are None."""
    made = {
        "method": exp.method,
        "target": exp.target,
        "scores": {s: t.tolist() for s, t in exp.scores.items()},
        "grid": {s: list(shape) for s, shape in exp.grid.items()},
        "inputs": _inputs(exp),
        "labels": exp.labels,
        "names": exp.names,
        "signed": exp.signed,
        "options": exp.options,
        "found": None if exp.found is None else dataclasses.asdict(exp.found),
        "receipt": exp.receipt.as_dict(),
    }
    plain: dict[str, Any] = defined(as_json(made))
    return plain


def generation_as_dict(g: Generation) -> dict[str, Any]:
    """A generation's texts once, its scores, one row a token written for each stream, and those of an answer as a whole."""
    first = as_dict(g.explanations[0])
    made = {
        "method": g.method,
        "target": g.target,
        "text": g.text,
        "prompt": g.prompt,
        "ids": g.ids,
        "stream": g.stream,
        "start": g.start,
        "tokens": g.tokens,
        "scores": {s: g.of(s).tolist() for s in first["scores"]},
        "inputs": {
            s: [{k: v for k, v in raw.items() if k != "words"} for raw in raws] for s, raws in first["inputs"].items()
        },
        **{name: first[name] for name in ("grid", "labels", "signed", "options")},
        "targets": [e.target for e in g],
        "receipts": [e.receipt.as_dict() for e in g],
    }
    plain: dict[str, Any] = defined(as_json(made))
    return plain | {"whole": None if g.whole is None else _whole(g.whole, plain["inputs"])}


def _whole(whole: Explanation, inputs: dict[str, Any]) -> dict[str, Any]:
    """What all of an answer rests on; of its inputs those that none of its tokens has: the answer it is told from."""
    made = as_dict(whole)
    own = {s: raws for s, raws in made["inputs"].items() if s not in inputs}
    return {name: made[name] for name in ("target", "scores", "signed", "receipt")} | {"inputs": own}


def _inputs(exp: Explanation) -> dict[str, list[dict[str, Any]]]:
    return {
        stream: [_raw(raw, scores) for raw, scores in zip(raws, exp.scores[stream].tolist(), strict=False)]
        for stream, raws in exp.inputs.items()
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


def rows(exp: Explanation) -> Iterator[dict[str, Any]]:
    """One row a token of every sample and stream, by COLUMNS."""
    for stream, batch in exp.scores.items():
        raws = exp.inputs.get(stream, ())
        for sample, scores in enumerate(batch.tolist()):
            raw = raws[sample] if sample < len(raws) else None
            places = {"sample": sample, "stream": stream}
            times = raw.times(len(scores)) if isinstance(raw, Sound) else []
            for number, score in enumerate(scores):
                yield (
                    dict.fromkeys(COLUMNS)
                    | places
                    | _cell(exp, stream, raw, number, times)
                    | {"number": number, "score": score}
                )


def _cell(
    exp: Explanation, stream: str, raw: Raw | None, number: int, times: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """What is known of one token: where it stands in its text (characters), in its sound (seconds) or on its grid."""
    if isinstance(raw, Sound):
        start, end = times[number]
        return {"token": f"{start:.2f}–{end:.2f} s", "start": start, "end": end}
    if isinstance(raw, Text) and number < len(raw.tokens):
        start, end = raw.offsets[number]
        return {"token": raw.tokens[number], "start": start, "end": end, "special": raw.special[number]}
    if stream in exp.grid:
        return exp.place_of(stream, number)
    return {}


def generation_rows(g: Generation) -> Iterator[dict[str, Any]]:
    """The rows of each token written, with its number among those written and its text."""
    text = g.texts[g.stream]
    for i, exp in enumerate(g):
        for row in rows(exp):
            yield {"written": i, "written_token": text.tokens[g.start + i], **row}


def frame(found: Iterator[dict[str, Any]]) -> Any:
    """Rows as a pandas DataFrame. Raises Misuse where pandas is not installed."""
    try:
        import pandas
    except ImportError:
        raise Misuse(
            "to_dataframe needs pandas, which is not installed: pip install pandas, or use to_dict()"
        ) from None
    return pandas.DataFrame(list(found)).convert_dtypes()


# -- one sample -------------------------------------------------------------------------------------------------------


def sample(exp: Explanation, number: Any) -> Explanation:
    """One sample of an explanation. Raises IndexError for one that there is not, as sequences do."""
    try:
        i = operator.index(number)
    except TypeError:
        raise Misuse(f"an explanation is read one sample at a time: give its number, not {number!r}") from None
    if not -exp.batch <= i < exp.batch:
        raise IndexError(f"there is no sample {i}; the explanation holds {exp.batch}, counted from 0")
    i %= exp.batch
    return dataclasses.replace(
        exp,
        scores={s: t[i : i + 1] for s, t in exp.scores.items() if i < len(t)},
        inputs={s: raws[i : i + 1] for s, raws in exp.inputs.items() if i < len(raws)},
        receipt=_receipt(exp.receipt, i, exp.batch),
        _looks=exp._looks.of_sample(i),
    )


def _receipt(receipt: Receipt, i: int, batch: int) -> Receipt:
    """The receipt of one sample: what is to be measured is measured for all, once."""

    def part(value: Any) -> Any:
        return value[i : i + 1] if isinstance(value, Tensor) and value.ndim and len(value) == batch else value

    def measure() -> Measured:
        found = receipt.measure()
        return Measured(found.faithful, part(found.baseline_value), part(found.attribution_target), found.passes)

    fields = {f.name: part(getattr(receipt, f.name)) for f in dataclasses.fields(receipt) if not f.name.startswith("_")}
    made = Receipt(**(fields | {"notes": list(receipt.notes)}))
    made._measured, made._measure = (measure(), None) if receipt._measured is not None else (None, measure)
    return made
