"""Many rows for DuckDB at once, as columns in Arrow's layout.

DuckDB's appender holds the interpreter for about 6 µs a row of ``receipts``, during which the event loop waits. To make
columns takes half of that, in pieces of about 0.1 ms, and DuckDB reads them without the interpreter.

Layout: Arrow Columnar Format 1.5, "Physical Memory Layout"; handed over as the Arrow PyCapsule Interface has it.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

#: Rows of one Arrow array: a column of so many holds the interpreter for less than 0.1 ms.
_BATCH_ROWS = 1_000
#: For so long pieces of work hold the interpreter together before another thread gets its turn.
_PIECE_NS = 40_000
#: DuckDB's types that are known here, each with the value that stands where there is none.
_FILLERS: dict[str, Any] = {"BIGINT": 0, "SMALLINT": 0, "BOOLEAN": False, "VARCHAR": "", "BLOB": b""}
#: A byte that is 0 or 1 as its digit; others as what no number has.
_DIGITS = b"01" + b"x" * 254


class Columns:
    """Rows as columns; DuckDB reads it as a table (``connection.register``)."""

    def __init__(self, schema: Any, batches: list[Any]) -> None:
        """Use ``columns_of``."""
        self._schema = schema
        self._batches = batches

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        from nanoarrow.c_array_stream import CArrayStream

        return CArrayStream.from_c_arrays(self._batches, self._schema, validate=False).__arrow_c_stream__()


def columns_of(names: tuple[str, ...], types: tuple[str, ...], slices: Iterable[Sequence[Sequence[Any]]]) -> Columns:
    """Make what DuckDB can read of the values of some columns.

    Args:
        names: Of the columns.
        types: As DuckDB calls them.
        slices: Some rows each, as the values of every column; another thread gets its turn after each.

    Returns:
        The rows, which DuckDB reads without a copy of them in Python.

    Raises:
        KeyError: A type is not known here.
        ValueError, TypeError, OverflowError: A value is not of its column's type, or beyond it.
    """
    schema, kinds = _schema(names, types)
    batches: list[Any] = []
    pause = _Pauses()
    columns: list[list[Any]] = [[] for _ in names]
    for values_of in slices:
        for column, values in zip(columns, values_of, strict=True):
            column.extend(values)
        pause()
        if len(columns[0]) >= _BATCH_ROWS:
            batches.append(_batch(schema, kinds, types, columns, pause))
            columns = [[] for _ in names]
    if columns[0]:
        batches.append(_batch(schema, kinds, types, columns, pause))
    return Columns(schema, batches)


class _Pauses:
    """Called between pieces of work, it lets other threads have the interpreter, about every 0.1 ms.

    A sleep costs 14 µs, even of no time: as much as the smallest pieces.
    """

    def __init__(self) -> None:
        self._began_ns = time.perf_counter_ns()

    def __call__(self) -> None:
        if time.perf_counter_ns() - self._began_ns > _PIECE_NS:
            time.sleep(0)
            self._began_ns = time.perf_counter_ns()


@lru_cache(maxsize=4)
def _schema(names: tuple[str, ...], types: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """Returns the schema of those columns, and that of each type."""
    import nanoarrow
    from nanoarrow.c_schema import c_schema

    makers = {
        "BIGINT": nanoarrow.int64,
        "SMALLINT": nanoarrow.int16,
        "BOOLEAN": nanoarrow.bool_,
        "VARCHAR": nanoarrow.string,
        "BLOB": nanoarrow.binary,
    }
    members = {name: makers[kind]() for name, kind in zip(names, types, strict=True)}
    return c_schema(nanoarrow.struct(members)), {kind: c_schema(makers[kind]()) for kind in types}


def _batch(
    schema: Any, kinds: dict[str, Any], types: Sequence[str], columns: Sequence[list[Any]], pause: Callable[[], None]
) -> Any:
    """Returns the Arrow array (a struct) of the values of all columns."""
    from nanoarrow.c_array import c_array_from_buffers

    rows = len(columns[0])
    children = []
    for kind, values in zip(types, columns, strict=True):
        children.append(c_array_from_buffers(kinds[kind], rows, _buffers(kind, values), validation_level="none"))
        pause()
    return c_array_from_buffers(schema, rows, [None], children=children, validation_level="none")


def _buffers(kind: str, values: list[Any]) -> list[Any]:
    """Returns a column's buffers, that of its nulls first."""
    if values[0] is None and values.count(None) == len(values):
        # Of most receipts some columns have nothing. What stands for nothing is all zeros, whatever the type.
        return [bytes(_bytes_of_bits(len(values))), *_NOTHING[kind](len(values))]
    try:
        return [None, *_data(kind, values)]
    except TypeError:
        if None not in values:
            raise
    filled = [_FILLERS[kind] if value is None else value for value in values]
    return [_bits([value is not None for value in values]), *_data(kind, filled)]


def _bytes_of_bits(bits: int) -> int:
    return (bits + 7) // 8


#: A column's buffers, that of its nulls left out, for so many rows of which none has a value.
_NOTHING: dict[str, Callable[[int], list[bytes]]] = {
    "BIGINT": lambda rows: [bytes(8 * rows)],
    "SMALLINT": lambda rows: [bytes(2 * rows)],
    "BOOLEAN": lambda rows: [bytes(_bytes_of_bits(rows))],
    "VARCHAR": lambda rows: [bytes(4 * (rows + 1)), b""],
    "BLOB": lambda rows: [bytes(4 * (rows + 1)), b""],
}


def _data(kind: str, values: list[Any]) -> list[Any]:
    """Returns a column's buffers but for that of its nulls, of which ``values`` has none."""
    if kind == "BIGINT":
        return [array("q", values)]
    if kind == "SMALLINT":
        return [array("h", values)]
    if kind == "BOOLEAN":
        return [_bits(values)]
    if kind == "BLOB":
        data = b"".join(values)
    else:
        text = "".join(values)
        data = text.encode()
        if len(data) != len(text):
            values = [value.encode() for value in values]
    return [array("i", accumulate(map(len, values), initial=0)), data]


def _bits(values: list[bool]) -> bytes:
    """Returns one bit for each value, the first one lowest. Raises ``TypeError`` or ``ValueError`` for what is none."""
    digits = bytes(values)[::-1].translate(_DIGITS)
    return int(digits, 2).to_bytes(_bytes_of_bits(len(values)), "little")
