"""A leaderboard as Markdown, which code hosts show, and as one self-contained page: the same numbers in the same order."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regard.evaluation.leaderboard import LEVEL, Board, Contest, Cost, RunRows, Standing
from regard.evaluation.protocols.protocol import Protocol
from regard.evaluation.ranking import BEST, NEAR
from regard.evaluation.statistics import Interval
from regard.explanation.counts import quantity
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.page import COLOURS, templates

TITLE = "Leaderboard"
CHANCE = "random"
"""The method whose maps are random numbers."""
NAMED = 3
"""So many methods are named in a line of the overview; of more, their number."""
OWN = "regard's code"
ARROWS = {1: "↑", -1: "↓"}
PARTS = {True: "Against known answers", False: "Against the model itself"}
LEGEND = (
    "**Bold** is the best value. ≈ marks methods that are not surely worse: take these and the best for candidates, not for a "
    "winner and losers.",
    "Square brackets are 95 % bootstrap intervals over examples; examples that share something (a scene, a document) are drawn "
    "together. ↑: higher is better; ↓: lower is better.",
    "*Behind the best* is the method's value less the best one's, on the examples that both have. *p* is from a permutation "
    "test that trades the two methods' numbers example by example, corrected by Holm for all pairs of methods in the table, as "
    f"the best is chosen by the same numbers. A method is surely worse where p is at most {LEVEL:g}. Trades are drawn by "
    "chance, so many that a corrected p can fall just below 0.01, and not far below.",
    "Each question has the full name of its protocol under it: numbers under another name cannot be compared with these.",
    "*Time for a map* is the median over single examples, each explained by itself after one to warm up. *Memory for a map* is "
    "by how much the resident set of a process of its own grew at most while it made maps, beyond what it held when the model "
    "was loaded and had run.",
)


def markdown(boards: Sequence[Board], title: str = TITLE, made_by: str = "") -> str:
    """The leaderboard as Markdown. made_by: the command that makes it."""
    return "\n\n".join([f"# {plain(title)}", sections(boards, made_by)]) + "\n"


def sections(boards: Sequence[Board], made_by: str = "") -> str:
    """The same without its title, for a page that has more to say."""
    parts = [f"Made by `{code(made_by)}`."] if made_by else []
    parts += ["## Overview", _overview(boards)]
    for board in boards:
        parts += [f"## {plain(board_title(board))}", *_board(board)]
    return "\n\n".join([*parts, "## How to read it", "\n".join(f"- {line}" for line in LEGEND), *_meanings(boards)])


def write_leaderboard(
    boards: Sequence[Board], path: str | os.PathLike[str], title: str = TITLE, made_by: str = ""
) -> Path:
    """Write a leaderboard: Markdown to a path that ends in .md, else a page (needs `regard[viz]`)."""
    draw = markdown if Path(path).suffix.lower() == ".md" else page
    return write_atomically(path, draw(boards, title, made_by).encode("utf-8", "replace"))


def page(boards: Sequence[Board], title: str = TITLE, made_by: str = "") -> str:
    """The leaderboard as an HTML page. Raises Misuse where a package of `regard[viz]` is missing."""
    need("viz")
    shown = [_of_board(b, f"m{i}") for i, b in enumerate(boards)]
    legend = [[(i % 2, part) for i, part in enumerate(re.split(r"\*+", line)) if part] for line in LEGEND]
    template = templates().get_template("leaderboard.html.j2")
    return str(
        template.render(
            title=title, boards=shown, legend=legend, made_by=made_by, meanings=meanings(boards), arrows=ARROWS,
            colours=COLOURS, opacity=1,
        )
    )  # fmt: skip


# -- what both show --------------------------------------------------------------------------------------------------------


def board_title(board: Board) -> str:
    """The model, and the data where they are not the model's own."""
    return board.model if board.model == board.data else f"{board.model} on {board.data}"


def number(value: Interval) -> tuple[str, str]:
    """0.41 and [0.39, 0.43]; "–" where there is no number."""
    if math.isnan(value.value):
        return "–", ""
    shown, _, interval = str(value).partition(" ")
    return shown, interval


def p_of(p: float | None) -> str:
    """A corrected p in two figures.

    >>> p_of(0.034), p_of(1e-5), p_of(1.0), p_of(None)
    ('0.034', '< 0.001', '1', '')
    """
    return "" if p is None else "< 0.001" if p < 1e-3 else f"{p:.2g}"


def lacking(s: Standing) -> str:
    """How many examples gave no number, and why."""
    parts = [f"{s.undefined} undefined" if s.undefined else "", f"{s.errors} failed" if s.errors else ""]
    return ", ".join(filter(None, parts))


def names(found: Sequence[str]) -> str:
    """Some names, or how many there are.

    >>> names(["gae", "rollout"]), names(["a", "b", "c", "d"])
    ('gae, rollout', '4 methods')
    """
    return ", ".join(found) if len(found) <= NAMED else f"{len(found)} methods"


def counted(contest: Contest) -> str:
    """What its numbers are of, in words."""
    methods = len(contest.standings[contest.main])
    return f"{quantity(contest.examples, 'example')}, {quantity(methods, 'method')}"


def meaning(contest: Contest, metric: str) -> str:
    """A metric in words, as far as its protocol has some."""
    return contest.protocol.meanings.get(metric, "")


def meanings(boards: Sequence[Board]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Kind of protocol -> its metrics in words, for all that are shown."""
    out: dict[str, dict[str, str]] = {}
    for board in boards:
        for contest in board.contests:
            told = {m: meaning(contest, m) for m in contest.standings if meaning(contest, m)}
            out.setdefault(contest.protocol.kind, {}).update(told)
    return [(kind.replace("-", " "), [*told.items()]) for kind, told in out.items() if told]


def seconds(cost: Cost) -> str:
    """A time in words.

    >>> seconds(Cost(0.0213, None, 5, 1, "")), seconds(Cost(2.5, None, 5, 1, ""))
    ('21 ms', '2.5 s')
    """
    return f"{cost.seconds * 1e3:.2g} ms" if cost.seconds < 0.1 else f"{cost.seconds:.2g} s"


def memory(cost: Cost) -> str:
    """Memory in words.

    >>> memory(Cost(1.0, 13_500_000, 5, 1, "")), memory(Cost(1.0, 70_000, 5, 1, "")), memory(Cost(1.0, None, 5, 1, ""))
    ('14 MB', 'under 1 MB', '–')
    """
    if cost.memory is None:
        return "–"
    return f"{cost.memory / 1e6:.0f} MB" if cost.memory >= 1e6 else "under 1 MB"


def measured(board: Board) -> str:
    """What its costs were measured on."""
    cost = next(iter(board.costs.values()))
    threads = "one thread" if cost.threads == 1 else f"{cost.threads} threads"
    return f"{quantity(cost.examples, 'example')} each, {threads}, {cost.machine}"


def made_of(run: RunRows) -> str:
    """One run in words: how it is made again, and what is missing of it."""
    left = "" if run.examples == run.count else f" ({run.examples} of {run.count} examples are done)"
    return (run.command or f"{run.name}, made from Python") + left


def versions(board: Board) -> str:
    """The packages that its runs had."""
    named = [{k: v for k, v in run.versions.items() if k != OWN} for run in board.runs]
    shown = dict.fromkeys(", ".join(f"{k} {v}" for k, v in each.items()) for each in named)
    differs = len({run.versions.get(OWN) for run in board.runs}) > 1
    return "; ".join(filter(None, [*shown, "Regard's code was not the same in all runs" if differs else ""]))


def overview(contest: Contest) -> dict[str, str]:
    """One contest in a line: the best, who is near, how many are worse, and what chance gets."""
    standings = contest.standings[contest.main]
    best = [s for s in standings if s.place == BEST]
    near = [s.title for s in standings if s.place == NEAR]
    worse = sum(s.p is not None and s.p <= LEVEL for s in standings)
    chance = next((s.value for s in standings if s.title == CHANCE), None)
    return {
        "best": names([s.title for s in best]),
        "value": " ".join(number(best[0].value)) if best else "",
        "near": names(near) or "none",
        "worse": f"{worse} of {len(standings)}",
        "chance": "–" if chance is None else number(chance)[0],
    }


def parts(board: Board) -> list[tuple[str, list[Contest]]]:
    """Contests by what maps are held against."""
    both = [(PARTS[known], [c for c in board.contests if c.protocol.known_answer == known]) for known in (True, False)]
    return [(name, own) for name, own in both if own]


def arrow(protocol: Protocol, metric: str) -> str:
    """Which way is better."""
    return ARROWS.get(protocol.direction(metric), "")


# -- Markdown --------------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """A name in a cell or a heading, with nothing in it that Markdown or HTML would take for more.

    >>> plain("a|b <i> raw_attention")
    'a\\\\|b &lt;i&gt; raw_attention'
    """
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", line)


def code(text: str) -> str:
    """The same for a span of code, between backticks."""
    return " ".join(text.split()).replace("`", "'").replace("|", "\\|")


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def _overview(boards: Sequence[Board]) -> str:
    head = ("model", "question", "metric", "best", "not surely worse", "surely worse", "a random map")
    rows = []
    for board in boards:
        for contest in board.contests:
            told, metric = overview(contest), contest.main
            asked = f"{plain(contest.protocol.question)} `{code(contest.protocol.name)}`"
            best = f"**{plain(told['best'])}** {told['value']}"
            what = f"`{code(metric)}` {arrow(contest.protocol, metric)}"
            rows.append(
                (plain(board_title(board)), asked, what, best, plain(told["near"]), told["worse"], told["chance"])
            )
    return grid(head, rows)


def _board(board: Board) -> list[str]:
    """All of one model and data."""
    out = ["```text\n" + "\n".join(_fenced(made_of(run)) for run in board.runs) + "\n```"]
    if told := versions(board):
        out.append(f"{plain(told)}.")
    for name, contests in parts(board):
        out.append(f"### {name}")
        out += [part for contest in contests for part in _contest(contest)]
    if board.costs:
        titles = dict.fromkeys(s.title for c in board.contests for s in c.standings[c.main])
        known = sorted((t for t in titles if t in board.costs), key=lambda t: board.costs[t].seconds)
        rows = [(plain(t), seconds(board.costs[t]), memory(board.costs[t])) for t in known]
        out += [
            "### What a map costs",
            grid(("method", "time for a map", "memory for a map"), rows),
            f"{plain(measured(board))}.",
        ]
    return out


def _fenced(line: str) -> str:
    """One line in a block of code."""
    return " ".join(line.split()).replace("```", "'''")


def _contest(contest: Contest) -> list[str]:
    """One protocol: its main metric, and behind a fold all others."""
    metric = contest.main
    said = f"{meaning(contest, metric)}; " if meaning(contest, metric) else ""
    out = [
        f"**{plain(contest.protocol.question)}**",
        f"`{code(contest.protocol.name)}`: {counted(contest)}. {_capital(said)}{_better(contest.protocol, metric)}.",
    ]
    head = ("method", f"`{code(metric)}` {arrow(contest.protocol, metric)}", "behind the best", "p (Holm)", "")
    out.append(grid(head, [_line(s) for s in contest.standings[metric]]))
    others = [m for m in contest.standings if m != metric]
    if others:
        table = grid(
            ("method", *(f"`{code(m)}` {arrow(contest.protocol, m)}" for m in others)), _others(contest, others)
        )
        count = "another number" if len(others) == 1 else f"{len(others)} other numbers"
        out.append(
            f'<details markdown="1"><summary>{_capital(count)} of this protocol</summary>\n\n{table}\n\n</details>'
        )
    return out


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _better(protocol: Protocol, metric: str) -> str:
    return "higher is better" if protocol.direction(metric) > 0 else "lower is better"


def _line(s: Standing) -> tuple[str, ...]:
    behind = "" if s.behind is None else " ".join(number(s.behind))
    return plain(s.title), cell(s), behind, p_of(s.p), lacking(s)


def _others(contest: Contest, metrics: Sequence[str]) -> list[list[str]]:
    """Methods in the order of the main metric."""
    at = {(s.title, m): s for m in metrics for s in contest.standings[m]}
    return [
        [plain(s.title), *(cell(at[s.title, m]) if (s.title, m) in at else "–" for m in metrics)]
        for s in contest.standings[contest.main]
    ]


def cell(s: Standing) -> str:
    """A value with its interval, marked."""
    shown, interval = number(s.value)
    marked = f"**{shown}**" if s.place == BEST else f"{shown} ≈" if s.place == NEAR else shown
    return f"{marked} {interval}".strip()


def _meanings(boards: Sequence[Board]) -> list[str]:
    """What each metric is, by kind of protocol."""
    out = []
    for kind, told in meanings(boards):
        out.append(f"**{plain(_capital(kind))}**")
        out.append("\n".join(f"- `{code(metric)}`: {plain(words)}" for metric, words in told))
    return out


# -- HTML ------------------------------------------------------------------------------------------------------------------


def _of_board(board: Board, key: str) -> dict[str, Any]:
    """What the template needs of one board."""
    shown = [
        {"name": name, "contests": [_of_contest(c, f"{key}-{board.contests.index(c)}") for c in own]}
        for name, own in parts(board)
    ]
    costs = sorted(board.costs.items(), key=lambda item: item[1].seconds)
    return {
        "id": key,
        "title": board_title(board),
        "parts": shown,
        "runs": [made_of(run) for run in board.runs],
        "versions": versions(board),
        "costs": [{"method": t, "seconds": seconds(c), "memory": memory(c)} for t, c in costs],
        "measured": measured(board) if board.costs else "",
    }


def _of_contest(contest: Contest, key: str) -> dict[str, Any]:
    """What the template needs of one protocol."""
    metric, protocol = contest.main, contest.protocol
    others = [m for m in contest.standings if m != metric]
    at = {(s.title, m): s for m in others for s in contest.standings[m]}
    return {
        "id": key,
        "title": protocol.question,
        "name": protocol.name,
        "counts": counted(contest),
        "metric": metric,
        "meaning": _capital(meaning(contest, metric)),
        "better": _better(protocol, metric),
        "arrow": arrow(protocol, metric),
        "overview": overview(contest),
        "rows": [
            {
                "method": s.title,
                "cell": _of_cell(s),
                "behind": "" if s.behind is None else " ".join(number(s.behind)),
                "p": p_of(s.p),
                "lacking": lacking(s),
                "others": [_of_cell(at.get((s.title, m))) for m in others],
            }
            for s in contest.standings[metric]
        ],
        "others": [{"name": m, "arrow": arrow(protocol, m)} for m in others],
    }


def _of_cell(s: Standing | None) -> dict[str, str]:
    """A value, its interval and its mark."""
    value, interval = ("–", "") if s is None else number(s.value)
    return {"value": value, "interval": interval, "mark": "" if s is None else s.place, "undefined": ""}


__all__ = ["LEGEND", "TITLE", "markdown", "page", "sections", "write_leaderboard"]
