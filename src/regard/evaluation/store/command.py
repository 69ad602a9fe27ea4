"""The command that makes a run again, from its manifest."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from regard.baseline import Baseline
from regard.errors import RegardError
from regard.evaluation.protocols.table import PROTOCOLS
from regard.evaluation.protocols.words import PLACED
from regard.zoo import PREFIX

DEFAULTS = {"seed": 0, "batch": 16, "threads": 1, "device": "cpu"}
"""What the command takes where nothing is said."""
SPECIAL = re.compile(r"[,()\[\]=\s]")


def command_of(plan: Mapping[str, Any], out: str) -> str:
    """The words for a shell; "" where a choice of the run has no words (a tensor as a baseline, a model from memory)."""
    try:
        return shlex.join(_words(plan, out))
    except _NoWords:
        return ""


class _NoWords(Exception):
    """Something that only Python can say."""


def _words(plan: Mapping[str, Any], out: str) -> list[str]:
    model, data = plan["model"]["name"], plan["data"]
    if plan["together"]:  # which the command does not take
        raise _NoWords
    if "weights" in plan["model"] and not model.startswith(PREFIX):
        raise _NoWords
    where = [] if data["source"] == model else [_data(data)]
    methods = ",".join(_called(m["method"], m["options"]) for m in plan["methods"])
    protocols = ",".join(_protocol(p) for p in plan["protocols"])
    words = ["regard", "evaluate", model, *where, "--methods", methods, "--protocols", protocols]
    for name, value in data["choices"].items():
        words += ["--data-option", f"{name}={json.dumps(value) if not isinstance(value, str) else value}"]
    words += ["--examples", str(plan["count"])]
    for name, usual in (DEFAULTS | {"shard": plan["batch"]}).items():
        if plan[name] != usual:
            words += [f"--{name}", str(plan[name])]
    return [*words, "--out", out]


def _data(data: Mapping[str, Any]) -> str:
    source: str = data["source"]
    kind = "" if data["kind"] == "zoo" or source.startswith(f"{data['kind']}:") else f"{data['kind']}:"
    return kind + source


def _protocol(said: Mapping[str, Any]) -> str:
    """One protocol with all choices that are not the usual ones."""
    usual = {f.name: f.default for f in dataclasses.fields(PROTOCOLS[said["kind"]])}  # type: ignore[arg-type]
    chosen = {k: v for k, v in said["choices"].items() if json.dumps(v) != json.dumps(usual.get(k))}
    return _called(re.sub(r"(?<=[a-z])(?=[A-Z])", "-", said["kind"]).lower(), chosen)


def _called(name: str, options: Mapping[str, Any]) -> str:
    return f"{name}({','.join(f'{k}={_value(k, v)}' for k, v in options.items())})" if options else name


def _value(name: str, value: Any) -> str:
    """A value in words that are read as it again."""
    if name in PLACED:
        try:
            same = PLACED[name](value).label == value
        except (RegardError, TypeError, AttributeError):
            same = False
        if not same or (name == "baseline" and not isinstance(Baseline.parse(value), Baseline)):
            raise _NoWords
        return str(value)
    if isinstance(value, str):
        if not value or SPECIAL.search(value):
            raise _NoWords
        return value
    return json.dumps(value, separators=(",", ":"))


__all__ = ["command_of"]
