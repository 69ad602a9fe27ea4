"""Several explanations in a list, which prints as a table: of several methods, targets, objects or words."""

from __future__ import annotations

from typing import Any, SupportsIndex, overload

from regard.explanation.explanation import Explanation
from regard.explanation.export import frame
from regard.explanation.printed import number
from regard.explanation.tables import as_html, in_columns, one_line

SHOWN = 12
"""As many are drawn in a notebook; of more, the first of them."""


class Explanations(list[Explanation]):
    """A flat list of explanations (methods outer, targets inner) that prints as a table. It is a `list` in all else."""

    @overload
    def __getitem__(self, i: SupportsIndex) -> Explanation: ...
    @overload
    def __getitem__(self, i: slice) -> Explanations: ...
    def __getitem__(self, i: SupportsIndex | slice) -> Explanation | Explanations:
        found = super().__getitem__(i)
        return Explanations(found) if isinstance(found, list) else found

    def to_rows(self) -> list[dict[str, Any]]:
        """`Explanation.to_rows` of all, each row with its method and its target."""
        return [{"method": e.method, "target": e.target} | row for e in self for row in e.to_rows()]

    def to_dataframe(self, backend: str | None = None) -> Any:
        """`to_rows` as a pandas or polars DataFrame; see `Explanation.to_dataframe`."""
        return frame(self.to_rows(), backend)

    def _table(self) -> list[list[str]]:
        """A row for each: its number, method, target, the target's value (of the first sample), samples."""
        return [
            [str(i), e.method, one_line(e.target, 36), number(float(e.receipt.target_value[0])), str(e.samples)]
            for i, e in enumerate(self)
        ]

    def __repr__(self) -> str:
        head = ["", "method", "target", "value", "samples"]
        return "\n".join([f"{len(self)} explanations", *in_columns([head, *self._table()], right=(3, 4))])

    def _repr_html_(self) -> str:
        more = len(self) - SHOWN
        caption = f"{len(self)} explanations" + (f"; the first {SHOWN} are drawn" if more > 0 else "")
        table = as_html(("", "method", "target", "value", "samples"), self._table(), caption)
        return table + "".join(e._repr_html_() for e in self[:SHOWN])


__all__ = ["Explanations"]
