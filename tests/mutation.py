"""Mutants of `recording/` and `attribution/`, sampled and time-boxed: which of them no test finds (`make mutation`).

cosmic-ray makes the mutants. Each runs the tests of its room in a fork of a process that has the libraries imported already.
`--minutes` bounds the run, `--seed` says which mutants are drawn, `--match` keeps to files. Results are appended to a file of
JSON lines; a mutant that is there already is not run again. What cannot be found because nothing changes is in `EQUIVALENT`.
"""

from __future__ import annotations

import argparse
import compileall
import difflib
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("recording", "attribution")
OPERATORS = (
    *(
        f"ReplaceBinaryOperator_{pair}"
        for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "BitAnd_BitOr")
    ),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Is_IsNot", "IsNot_Is")),
    *(f"ReplaceUnaryOperator_Delete_{sign}" for sign in ("USub", "Not")),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd", "AddNot"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop", "NumberReplacer"),
)
WARNED = "ignore::pytest.PytestAssertRewriteWarning"
"""Libraries are imported before pytest could rewrite their assertions."""
LONGEST = 240
"""Seconds of CPU after which a mutant counts as found: it loops."""

TESTS: dict[str, tuple[str, ...]] = {
    "recording/tokens": ("unit/test_rules.py", "unit/test_provenance.py", "unit/test_streams.py", "unit/test_storage.py",
                         "unit/test_meetings.py", "unit/test_mixing.py", "unit/test_grids.py", "unit/test_inputs.py"),
    "recording/calls": ("unit/test_attention.py", "unit/test_joined.py", "unit/test_states.py", "unit/test_rebuild.py",
                        "unit/test_spellings.py", "unit/test_tiles.py"),
    "recording/relevance": ("unit/test_readouts.py", "unit/test_states.py", "unit/test_joined.py", "unit/test_receipts.py",
                            "methods/test_bti.py", "methods/test_heterogenous.py"),
    "recording/proof": ("unit/test_verify.py", "unit/test_mutants.py", "unit/test_verify_written.py"),
    "recording": ("unit/test_provenance.py", "unit/test_inputs.py", "unit/test_exports.py", "unit/test_threads.py",
                  "methods/test_refusals.py", "methods/test_edits.py", "unit/test_similarity.py", "unit/test_devices.py"),
    "attribution/integral": ("methods/test_path.py", "unit/test_patch_gradient.py", "methods/test_no_maps.py"),
    "attribution": ("methods/test_twins.py", "methods/test_bti.py", "methods/test_heterogenous.py", "methods/test_no_maps.py"),
}  # fmt: skip
"""By the room of a mutant, the first that fits: the tests that judge it, the quickest first. `ALL` judge what they let pass."""
ALL = ("methods/test_twins.py", "families/test_sweep.py")

EQUIVALENT: dict[tuple[str, str], str] = {
    (
        "src/regard/recording/relevance/propagation.py",
        "for a, pulled in zip(mine, call.pull_all([a.step.pull(a.w) for a in mine]) if mine else (), strict=False):",
    ): "a call gives one pull back for each that it is asked for; strict only says so",
    (
        "src/regard/recording/tokens/movements.py",
        "columns = [_ids(t, p) for t, p in zip(tags, parts, strict=False)]",
    ): "there is a tag for each part; strict only says so",
    (
        "src/regard/recording/tokens/movements.py",
        "parts = list(args[ -1]) if isinstance(args[0], list | tuple) else list(args)",
    ): "tensors that are given as a list are the only argument",
}
"""(file, the line as the mutant has it) -> why it computes the same."""


@dataclass(frozen=True)
class Mutant:
    """One change of one place of a file."""

    file: str
    operator: str
    occurrence: int
    line: int
    was: str = ""
    now: str = ""
    outcome: str = ""
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str, int]:
        return self.file, self.operator, self.occurrence


def places(path: Path) -> Iterator[Mutant]:
    """All mutants of a file."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator

    nodes = [*ast_nodes(get_ast(path.read_text(encoding="utf-8")))]
    for name in OPERATORS:
        operator, occurrence = get_operator(f"core/{name}")(), 0
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                yield Mutant(str(path.relative_to(ROOT)), name, occurrence, start[0])
                occurrence += 1


def mutated(mutant: Mutant) -> tuple[str, str]:
    """The source of a file, and that of the mutant."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    return source, mutate_code(source, get_operator(f"core/{mutant.operator}")(), mutant.occurrence)


def difference(old: str, new: str) -> tuple[str, str]:
    """The lines that a mutant changes, as they were and as they are."""
    changed = [d for d in difflib.ndiff(old.splitlines(), new.splitlines()) if d[:2] in ("- ", "+ ")]
    was, now = (" ".join(d[2:].strip() for d in changed if d[0] == sign) for sign in "-+")
    return was, now


def judges(file: str) -> list[str]:
    """The tests of a file's room, then those of all rooms."""
    room = next(r for r in TESTS if file.startswith(f"src/regard/{r}"))
    return [f"tests/{t}" for t in dict.fromkeys([*TESTS[room], *ALL])]


def passed(source: Path, tests: Sequence[str]) -> bool:
    """Whether all tests pass with the package at `source`, in a fork."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os.setsid()
        sys.path.insert(0, str(source))
        os.environ["PYTHONPATH"] = str(source)
        import pytest

        code = 1
        try:
            code = pytest.main(["-xqm", "not long", "-p", "no:cacheprovider", "-W", WARNED, *tests])
        finally:
            os._exit(int(code))
    return os.waitpid(child, 0)[1] == 0


def run(mutant: Mutant, room: Path, tests: Sequence[str]) -> Mutant:
    """A mutant with its outcome."""
    old, new = mutated(mutant)
    was, now = difference(old, new)
    if (mutant.file, now) in EQUIVALENT:
        return Mutant(**asdict(mutant) | {"was": was, "now": now, "outcome": "equivalent"})
    copy, start = room / mutant.file, time.monotonic()
    copy.write_text(new, encoding="utf-8")
    outcome = "survived" if passed(room / "src", tests) else "found"
    copy.write_text(old, encoding="utf-8")
    return Mutant(**asdict(mutant) | {"was": was, "now": now, "outcome": outcome, "seconds": time.monotonic() - start})


def main() -> None:
    """Draw mutants until the time is over, and say how many were found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--match", default="", help="only files whose path holds this")
    parser.add_argument("--tests", nargs="+", help="judge by these instead of the tests of a mutant's room")
    parser.add_argument("--again", action="store_true", help="only those that survived before, by other --tests")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "mutants.jsonl")
    given = parser.parse_args()
    files = sorted(p for room in ROOMS for p in (ROOT / "src" / "regard" / room).rglob("*.py") if given.match in str(p))
    drawn = [m for p in files for m in places(p)]
    random.Random(given.seed).shuffle(drawn)
    drawn = [*{(m.file, m.line): m for m in drawn}.values()]  # one of each line
    given.out.parent.mkdir(parents=True, exist_ok=True)
    before = given.out.read_text().splitlines() if given.out.exists() else []
    done = {m.key: m for m in (Mutant(**json.loads(line)) for line in before)}  # the last word of each counts
    survivors = [m for m in done.values() if m.outcome == "survived"]
    drawn = survivors if given.again else [m for m in drawn if m.key not in done]
    end = time.monotonic() + 60 * given.minutes
    import torch  # now, for all forks
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder, given.out.open("a") as out:
        shutil.copytree(ROOT / "src", Path(folder) / "src")
        compileall.compile_dir(folder, quiet=1)
        sound: set[tuple[str, ...]] = set()
        for mutant in drawn:
            if time.monotonic() > end:
                break
            tests = tuple(given.tests or judges(mutant.file))
            if tests not in sound and not passed(Path(folder) / "src", tests):
                sys.exit(f"the tests of {mutant.file} fail without a mutant")
            sound.add(tests)
            done[mutant.key] = judged = run(mutant, Path(folder), tests)
            out.write(json.dumps(asdict(judged)) + "\n")
            out.flush()
            if judged.outcome == "survived":
                print(f"{mutant.file}:{mutant.line}: {judged.was}  ->  {judged.now}", flush=True)
    print(f"{len(done)} mutants:", dict(Counter(m.outcome for m in done.values())))


if __name__ == "__main__":
    main()
