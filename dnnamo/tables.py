"""Records as a table: a sequence of rows that Arrow, pandas and Polars take over."""

from collections.abc import Iterable, Iterator, Sequence
from types import UnionType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union, get_args, get_origin, overload

import msgspec

from dnnamo.errors import MissingExtra
from dnnamo.records import Record

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

__all__ = ["Table"]

R = TypeVar("R", bound=Record)


class Table(Sequence[R], Generic[R]):
    """Records of one type, in order.

    Args:
        rows: The records.
        type: What they are; there need not be any.
    """

    def __init__(self, rows: Iterable[R], type: type[R]) -> None:  # noqa: A002
        self._rows = tuple(rows)
        self._type = type

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> "Table[R]": ...
    def __getitem__(self, index: int | slice) -> "R | Table[R]":
        return Table(self._rows[index], self._type) if isinstance(index, slice) else self._rows[index]

    def __iter__(self) -> Iterator[R]:
        return iter(self._rows)

    def __repr__(self) -> str:
        return f"<{len(self)} x {self._type.__name__}>"

    def to_arrow(self) -> "pa.Table":
        """Return the rows as an Arrow table: numbers, text, null for None, and JSON text for whatever else."""
        import pyarrow as pa

        kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
        columns = {}
        for field in msgspec.structs.fields(self._type):
            kind = kinds.get(_plain(field.type))
            values = [getattr(row, field.name) for row in self._rows]
            columns[field.name] = pa.array(map(_json, values), pa.string()) if kind is None else pa.array(values, kind)
        return pa.table(columns)

    def to_pandas(self) -> "pd.DataFrame":
        """Return the rows as a pandas data frame; integers stay integers where some are missing.

        Raises:
            MissingExtra: If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtra("pandas", extra="frames") from error
        table = self.to_arrow()
        return table.to_pandas(
            types_mapper={kind: pd.Int64Dtype() for kind in table.schema.types if "int" in str(kind)}.get
        )

    def to_polars(self) -> "pl.DataFrame":
        """Return the rows as a Polars data frame.

        Raises:
            MissingExtra: If Polars is not installed.
        """
        try:
            import polars as pl
        except ImportError as error:
            raise MissingExtra("Polars", extra="frames") from error
        return pl.DataFrame(self.to_arrow())


def _plain(annotation: Any) -> Any:
    """Return the type of an annotation that also allows None."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    (plain,) = (it for it in get_args(annotation) if it is not type(None))
    return plain


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
