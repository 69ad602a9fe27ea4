"""Methods and protocols in words, with their options: "perturbation(unit=token,fill=drop)"."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from regard.baseline import Baseline
from regard.called import called, parts_of
from regard.errors import Misuse, nearest
from regard.evaluation.data.dataset import DataSet
from regard.evaluation.protocols.protocol import MethodChoice, Protocol
from regard.evaluation.protocols.table import PROTOCOLS
from regard.site import Site

Asked = str | Protocol
PLACED: dict[str, Callable[[str], Any]] = {"site": Site.parse, "baseline": Baseline.parse}
"""Options that are things, and what reads their words."""


def method_of(what: str | tuple[str, Mapping[str, Any]]) -> MethodChoice:
    """A method by its words, or as (name, options); a site and a baseline may be given in words, too."""
    name, options = called(what) if isinstance(what, str) else what
    placed = {k: PLACED[k](v) for k, v in options.items() if k in PLACED and isinstance(v, str)}
    return MethodChoice(name, {**options, **placed})


def asked_of(protocols: Sequence[Asked] | None, kind: str, data: DataSet) -> list[Protocol]:
    """Protocols by their words or as they are, each once; None: those that the data can be judged by.

    What the words leave open fits the data: of a text, words are taken away and not pixels; where no classes are known,
    the predicted one is explained. Raises UnknownName and Misuse for wrong words, and for what these data cannot be judged by.
    """
    if isinstance(protocols, str):
        raise Misuse(f"protocols are a list: protocols={parts_of(protocols)!r}")
    wanted = _usual(data) if protocols is None else protocols
    made = [p if isinstance(p, Protocol) else protocol_of(p, kind, data.labelled) for p in wanted]
    known = _known(data)
    for protocol in made:
        if not known.get(protocol.kind, True):
            raise Misuse(
                f"{data.source} holds no {NEEDED[protocol.kind]}, which {protocol.kind} needs; these data can be judged by "
                f"{', '.join(_usual(data))}"
            )
    return list(dict.fromkeys(made))


NEEDED = {
    "segmentation": "masks",
    "rationale": "rationales",
    "known-tokens": "tokens that answers are known to rest on",
}
"""What data must hold for a protocol."""


def _known(data: DataSet) -> dict[str, bool]:
    """Whether they do, as far as is known before they are read."""
    return {"segmentation": data.masked, "rationale": data.rationales, "known-tokens": data.sourced}


def _usual(data: DataSet) -> list[str]:
    """What data can be judged by."""
    return ["perturbation", *(name for name, there in _known(data).items() if there), "attribution-error"]


def protocol_of(words: str, kind: str, labelled: bool) -> Protocol:
    """One protocol by its words."""
    name, options = called(words)
    table = {_hyphened(n): p for n, p in PROTOCOLS.items()}
    if _hyphened(name) not in table:
        raise nearest(name, table, "protocol")
    made = table[_hyphened(name)]
    known = {f.name: f.default for f in dataclasses.fields(made)}  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            raise nearest(option, known, f"option of {name}")
    fitting = {}
    if _hyphened(name) == "perturbation" and kind == "text":
        fitting = {"unit": "word", "fill": "drop"}
    if _hyphened(name) == "segmentation" and not labelled:
        fitting = {"explained": "predicted"}
    try:
        return made(**{**fitting, **{k: _fitted(v, known[k]) for k, v in options.items()}})
    except TypeError as e:
        raise Misuse(f"{words!r} is not understood: {e}") from e


def _fitted(value: Any, default: Any) -> Any:
    """A value of the type of the field: the true of `explained=true` is a word."""
    if isinstance(default, str) and not isinstance(value, str):
        return json.dumps(value)
    return tuple(value) if isinstance(value, list) else value


def _hyphened(name: str) -> str:
    """AttributionError and attribution_error as attribution-error.

    >>> _hyphened("AttributionError"), _hyphened("attribution_error")
    ('attribution-error', 'attribution-error')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).replace("_", "-").lower()


__all__ = ["Asked", "asked_of", "method_of", "protocol_of"]
