"""The columns of a stored row, and a shard of rows as the bytes of one Parquet file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from regard.evaluation.protocols.protocol import Row
from regard.extras import brought_by

COLUMNS = {
    "shard": "int32",
    "number": "int64",
    "example": "string",
    "group": "string",
    "label": "int64",
    "predicted": "int64",
    "explained": "int64",
    "method": "string",
    "title": "string",
    "options": "string",
    "site": "string",
    "baseline": "string",
    "protocol": "string",
    "kind": "string",
    "choices": "string",
    "metric": "string",
    "x": "double",
    "value": "double",
    "error": "string",
    "seconds": "double",
}
"""Name -> Arrow type. All but `shard` and `number`, the example's place in the data, are those of `Row.record`."""
META = b"regard"


def as_parquet(rows: Sequence[Row], numbers: Mapping[str, int], shard: int, about: Mapping[str, Any]) -> bytes:
    """One file of rows. `numbers`: name of an example -> its place. `about`: what `about_of` reads again."""
    arrow, parquet = brought_by("store", "pyarrow"), brought_by("store", "pyarrow.parquet")
    records = [r.record() | {"shard": shard, "number": numbers[r.example]} for r in rows]
    meta = {META: json.dumps({**about, "rows": len(records)}).encode()}
    schema = arrow.schema([(name, getattr(arrow, KINDS.get(kind, kind))()) for name, kind in COLUMNS.items()], meta)
    table = arrow.Table.from_pylist(records, schema=schema)
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd", write_page_checksum=True)
    found: bytes = sink.getvalue().to_pybytes()
    return found


KINDS = {"double": "float64"}
"""Where the function of Arrow that makes a type has another name."""


def about_of(opened: Any) -> dict[str, Any] | None:
    """What `as_parquet` said of a file; None where it is not whole: all pages are read, and their checksums compared."""
    arrow, parquet = brought_by("store", "pyarrow"), brought_by("store", "pyarrow.parquet")
    try:
        file = parquet.ParquetFile(opened, page_checksum_verification=True)
        about: dict[str, Any] = json.loads(file.schema_arrow.metadata[META])
        rows = sum(batch.num_rows for batch in file.iter_batches())
        return about if rows == about["rows"] else None
    except (arrow.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None


__all__ = ["COLUMNS", "about_of", "as_parquet"]
