"""`method="auto"`: the method where none is named, by what does best at such a task in our own tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from regard.attribution.table import METHODS
from regard.errors import ModelError, TrailLost
from regard.explanation.explanation import Explanation
from regard.explanation.generation import Generation
from regard.preferred import AUTO, GAE, KNOWN, PREFERRED
from regard.site import Site


def _takes(name: str, given: Mapping[str, Any]) -> bool:
    row = METHODS[name]
    site: Site | None = given.get("site")
    fits = [site is None or site.kind in row.sites]
    fits += [given.get("baseline") is None or row.explicit, given.get("readout") is None or "maps" in row.needs]
    known = {option for other in KNOWN & METHODS.keys() for option in METHODS[other].options}
    return all(fits) and all(o in row.options for o in given.keys() & known)


def by_default(task: str, method: Any, given: Mapping[str, Any], run: Callable[[Any], Any]) -> Any:
    """What `run` makes of a method, or of a list of methods, in which "auto" stands for the best at a task.

    given: the site, the baseline, the read-out and the options that were asked for: a method that does not take them is passed
    over. Where the best cannot explain the model, `gae` does, and a note says so; if that fails too, the first error is raised.
    """
    several = not isinstance(method, str) and isinstance(method, Sequence)
    if method != AUTO and not (several and AUTO in method):
        return run(method)
    offered = [n for n in PREFERRED[task].names if n in METHODS]
    taking = [n for n in offered if _takes(n, given)] or offered
    if several:
        named = [taking[0] if m == AUTO else m for m in method]
        found = run(list(dict.fromkeys(named)))
        _say([e for e in found if e.method == taking[0]], task, taking[0])
        return found
    refused: list[ModelError | TrailLost] = []
    for name in dict.fromkeys((taking[0], GAE if GAE in taking else taking[0])):
        try:
            found = run(name)
        except (ModelError, TrailLost) as e:
            refused.append(e)
            continue
        _say(found, task, name, refused)
        return found
    raise refused[0]


def _say(found: Any, task: str, name: str, refused: Sequence[Exception] = ()) -> None:
    """Put on the receipts for what task the method was chosen, and why it is not the best one where it is not."""
    best = PREFERRED[task].names[0]
    note = f"{name} was taken: {best}, the default for {PREFERRED[task].task}, "
    note += f"cannot explain this model ({refused[0]})" if refused else "does not take what was asked for"
    for exp in _each(found):
        exp.receipt.default_for = task
        if name != best and note not in exp.receipt.notes:
            exp.receipt.notes.append(note)


def _each(found: Any) -> Iterator[Explanation]:
    if isinstance(found, Explanation):
        yield found
    elif isinstance(found, Generation):
        yield from (*([] if found.whole is None else [found.whole]), *found)
    elif isinstance(found, list | tuple):
        for one in found:
            yield from _each(one)


__all__ = ["by_default"]
