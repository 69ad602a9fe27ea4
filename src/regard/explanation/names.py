"""What streams and tokens are called for whoever reads a report: "picture", "[CLS]", "patch (3, 5)", "Bag, 99 %".

A stream of tensors alone keeps the name that it has in the model's forward: whoever gave it knows that name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from regard.explanation.boxes import Found
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Picture, Raw, Sound, Text

KINDS: dict[type, str] = {Picture: "picture", Text: "text", Sound: "sound"}
GIVEN = {"decoder_input_ids": "answer", "against": "other answer"}
"""Texts that stand beside the one that was read."""
BORN = {
    "cls_token": "[CLS]",
    "class_token": "[CLS]",
    "class_embedding": "[CLS]",
    "distillation_token": "[DIST]",
    "dist_token": "[DIST]",
    "register_tokens": "registers",
    "reg_token": "registers",
    "query_position_embeddings": "object queries",
}
"""Tokens born from a parameter, by the last part of its name."""


def stream_name(exp: Explanation, stream: str) -> str:
    """What a stream is called; where two would be called the same, also what the model calls it."""
    name = input_name(stream, exp.inputs)
    alone = [input_name(s, exp.inputs) for s in exp.scores].count(name) < 2
    return name if alone or name == stream else f"{name} ({stream})"


def input_name(stream: str, inputs: Mapping[str, Sequence[Raw]]) -> str:
    """What a stream is called by itself: by the raw inputs that it was made of, or the parameter that it was born from."""
    raws = inputs.get(stream)
    if raws:
        kind = KINDS[type(raws[0])]
        return GIVEN.get(stream, kind) if kind == "text" else kind
    return BORN.get(stream.rpartition(".")[2], stream)


def token_name(exp: Explanation, stream: str, number: int, sample: int = 0) -> str:
    """What a token is called: as its text spells it, by its patch, its region, its time, or its number in the stream."""
    raws = exp.inputs.get(stream, ())
    raw: Raw | None = raws[sample] if sample < len(raws) else None
    if isinstance(raw, Text):
        start, end = raw.offsets[number] if number < len(raw.offsets) else (0, 0)
        spelt = raw.text[start:end].strip()
        return f"“{spelt}”" if spelt else raw.tokens[number]
    if isinstance(raw, Sound):
        return moment_name(*raw.times(exp.scores[stream].shape[1])[number])
    if isinstance(raw, Picture) and raw.regions:
        return f"region {number + 1}"
    if stream in exp.grid:
        return patch_name(**exp.place_of(stream, number))
    if exp.found is not None and input_name(stream, exp.inputs) == BORN["query_position_embeddings"]:
        return "the object's query" if number == exp.found.query else f"query {number + 1}"
    name, count = stream_name(exp, stream), exp.scores[stream].shape[1] if stream in exp.scores else 1
    return name if count == 1 else f"{name} {number + 1}"


def class_name(exp: Explanation, sample: int = 0) -> str:
    """The explained class of a sample, where the target is of one; "" else."""
    if exp.found is not None:
        return exp.found.label
    if exp.receipt.explained is None or exp.receipt.classes == "text":
        return ""
    explained = exp.receipt.explained.reshape(-1)
    index = int(explained[min(sample, len(explained) - 1)])
    if index in exp.names:
        return exp.names[index]
    known = exp.labels is not None and exp.receipt.classes == "class" and 0 <= index < len(exp.labels)
    return exp.labels[index] if known and exp.labels else f"{exp.receipt.classes} {index}"


def patch_name(row: int, column: int, frame: int | None = None, picture: int | None = None) -> str:
    """A place on a grid, counted from 1, as pages count."""
    parts = {"frame": frame, "picture": picture}
    of = "".join(f" of {kind} {n + 1}" for kind, n in parts.items() if n is not None)
    return f"patch ({row + 1}, {column + 1}){of}"


def moment_name(start: float, end: float) -> str:
    """From when to when, in seconds."""
    return f"{start:.2f}–{end:.2f} s"


def object_name(found: Found) -> str:
    """A found object: "Bag, 99 %"."""
    return f"{found.label}, {found.percent}"
