"""What a reader of a map should know of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from regard.attribution.integral.path import Path
from regard.attribution.removal.explained import Removed
from regard.explanation.names import input_name
from regard.explanation.raw_inputs import Raw
from regard.recording import Recording, Stream
from regard.recording.inputs import CACHES


def run_notes(recording: Recording, follows: bool, along: Path | Removed | None) -> list[str]:
    """What to know of the run; of its attention only where the method follows it."""
    notes = recording.overrides.sentences() + (_of_attention(recording) if follows else []) + _of_packed(recording)
    notes += _of_caches(recording, follows)
    if recording.unseen:
        notes.append(
            f"values were overwritten where autograd does not see it ({', '.join(recording.unseen)}): gradients are those of "
            "the values before"
        )
    if recording.guessed and along is not None and along.site.kind != "input":
        where = ", ".join(recording.guessed)
        notes.append(f"tokens after {where} are known by their place alone: how these blocks mix them is not followed")
    return notes


def _of_attention(recording: Recording) -> list[str]:
    notes = recording.doubts()
    if cut := [str(c.index) for c in recording.calls if c.detached]:
        notes.append(
            f"attention calls {', '.join(cut)} are cut out of the graph (no_grad or detach): they count as zero"
        )
    for name in dict.fromkeys(c.looks for c in recording.calls if c.looks):
        at = ", ".join(str(c.index) for c in recording.calls if c.looks == name)
        notes.append(
            f"attention calls {at} compare with tokens of {name} and take the values of others: only these others get a score"
        )
    notes += recording.renamed + [n for a in recording.attentions for n in a.notes]
    if recording.mixers:
        where = ", ".join(_mixer(name, recording.modules.get(name, [])) for name in recording.mixers)
        notes.append(f"tokens are mixed outside attention ({where}), which maps do not follow")
    return notes


def _mixer(operation: str, modules: Sequence[str]) -> str:
    """An operation and the modules that use it; of many, the first."""
    named = [m for m in modules if m]
    if not named:
        return operation
    more = f" and {len(named) - 1} more" if len(named) > 1 else ""
    return f"{operation} in {named[0]}{more}"


def _of_packed(recording: Recording) -> list[str]:
    notes = []
    several = recording.batch > 1
    if several and (packed := {s.name: s.count for s in recording.streams if s.packed and s.kind != "merged"}):
        each = ", ".join(f"{name}: {count}" for name, count in packed.items())
        notes.append(f"tokens of all samples stand in one row ({each}); those of other samples score 0")
    return notes


def _of_caches(recording: Recording, follows: bool) -> list[str]:
    """A note on keys that come from a cache: they are tokens of no input, and what rests on them is in no map. A method that
    follows no keys has not counted them."""
    held = {n: c for n, c in recording.given.caches.items() if n.rpartition(".")[2] in CACHES} if not follows else {}
    if held:
        return [
            f"{', '.join(held)}: what rests on tokens in a cache is left out; give all tokens, and no cache, to have them"
        ]
    if not recording.given.caches or not follows:
        return []
    nobody = [int(((c.keys == 0) & ~c.dead_keys()).sum(1).max()) for c in recording.calls if not c.lost]
    if not any(nobody):
        return []
    most = nobody.index(max(nobody))
    return [
        f"{nobody[most]} of the {recording.calls[most].shape[3]} keys of attention call {most} come from "
        f"{', '.join(recording.given.caches)} and are no tokens of the inputs: what rests on them is left out; give all "
        "tokens, and no cache, to have them in the map"
    ]


def blind_notes(streams: Sequence[Stream], scores: Mapping[str, Tensor], raw: Mapping[str, Sequence[Raw]]) -> list[str]:
    """A note on inputs that a map leaves out as a whole; where nothing at all has a score it says nothing that the map does
    not."""
    inputs = [s.name for s in streams if s.of_input]
    none = [name for name in inputs if not bool(scores[name].any())]
    if not none or (len(inputs) == 1 and not any(bool(scores[s.name].any()) for s in streams if s.name in scores)):
        return []
    named = [f"the {input_name(name, raw)}" if name in raw else name for name in none]
    return [f"this method does not reach {' and '.join(named)}: all scores there are 0"]
