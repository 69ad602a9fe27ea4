"""Stored rows as columns: DuckDB finds and orders them, numpy takes them, and no row becomes an object of Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from regard.evaluation.measured import ABSENT, Examples, MethodColumns, by_metric
from regard.evaluation.protocols.protocol import Protocol

SIDE = "CASE WHEN label IS NULL OR predicted IS NULL THEN 2 WHEN label = predicted THEN 1 ELSE 0 END"
"""A row's place in `measured.SIDES`."""
OWN = "FROM placed JOIN asked USING (title, site, baseline) WHERE protocol = ?"
KEYS = """
    CREATE OR REPLACE TEMP TABLE asked AS
    SELECT title, site, baseline, (row_number() OVER (ORDER BY list_position($titles, title), first))::INTEGER - 1 AS key
    FROM (
        SELECT title, site, baseline, min(number) AS first FROM rows
        WHERE protocol = $protocol AND list_contains($titles, title) GROUP BY title, site, baseline
    )
"""
NAMES = """
    CREATE OR REPLACE TEMP TABLE names AS
    SELECT metric, (row_number() OVER (ORDER BY metric))::INTEGER - 1 AS code
    FROM (SELECT DISTINCT metric FROM rows WHERE protocol = $protocol AND error = '')
"""
NUMBERS = f"""
    SELECT key, number, code, x IS NOT NULL AS point, coalesce(x, 0) AS x, value
    {OWN.replace("WHERE", "JOIN names USING (metric) WHERE")} AND error = ''
    ORDER BY key, number, file_row_number
"""
ASKED = f"SELECT key, number, first({SIDE} ORDER BY file_row_number)::TINYINT AS side, bool_or(error = '') AS good " + (
    f"{OWN} GROUP BY key, number ORDER BY key, number"
)
ERRORS = f"SELECT key, number, error {OWN} AND error != '' ORDER BY key, number, file_row_number"
EXAMPLES = 'SELECT number, any_value(example), any_value("group") FROM rows GROUP BY number ORDER BY number'


def examples_of(database: Any) -> tuple[Any, Examples]:
    """The places of all examples in the data, in order, and what they are called."""
    found = database.execute(EXAMPLES).fetchall()
    names = [name for _, name, _ in found]
    drawn_with = [f"group {group}" if group else f"example {name}" for _, name, group in found]
    return np.array([number for number, _, _ in found], dtype=np.int64), Examples(names, drawn_with)


def measured_rows(
    database: Any, protocol: Protocol, titles: Sequence[str], numbers: Any, examples: Examples
) -> list[MethodColumns]:
    """The rows of some methods under one protocol, methods in this order.

    database: with the rows as the views `rows` and `placed`. numbers, examples: of `examples_of`.
    """
    given = {"protocol": protocol.name}
    database.execute(KEYS, given | {"titles": list(titles)})
    database.execute(NAMES, given)
    keys = database.execute("SELECT title, site, baseline FROM asked ORDER BY key").fetchall()
    names = [name for (name,) in database.execute("SELECT metric FROM names ORDER BY code").fetchall()]
    of = {
        what: _fetched(database, query, protocol.name, numbers) for what, query in (("rows", NUMBERS), ("asked", ASKED))
    }
    errors: list[list[tuple[int, str]]] = [[] for _ in keys]
    for key, number, why in database.execute(ERRORS, [protocol.name]).fetchall():
        errors[key].append((int(np.searchsorted(numbers, number)), why))
    made = []
    for i, (title, site, baseline) in enumerate(keys):
        rows, asked = (_of_key(table, i) for table in of.values())
        sides = np.full(len(numbers), ABSENT, dtype=np.int8)
        good = np.zeros(len(numbers), dtype=np.bool_)
        sides[asked["number"]], good[asked["number"]] = asked["side"], asked["good"]
        values, points = by_metric(rows["code"], names, rows["number"], rows["x"], rows["value"], rows["point"])
        made.append(MethodColumns(protocol, title, site, baseline, examples, sides, good, values, points, errors[i]))
    return made


def _fetched(database: Any, query: str, protocol: str, numbers: Any) -> dict[str, Any]:
    """A table as arrays; numbers of examples as their places."""
    found = database.execute(query, [protocol]).fetchnumpy()
    return {**found, "number": np.searchsorted(numbers, found["number"])}


def _of_key(table: Mapping[str, Any], key: int) -> dict[str, Any]:
    """The rows of one method, of a table in the order of methods."""
    first, last = np.searchsorted(table["key"], [key, key + 1])
    return {name: column[first:last] for name, column in table.items()}


__all__ = ["examples_of", "measured_rows"]
