"""The events of one plane of an XSpace, which is a host or a device, as columns and as they stand in the file."""

import base64
import json
import math
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dnnamo.profiles.events import NONE, Column, Texts

__all__ = ["Rows"]


class Rows:
    """What the events of a plane hold, a row an event.

    Attributes:
        line: Position of each event's line, int32.
        kind: Position of each event's name in `kinds`.
        kinds: Name and display name, as events of the plane have them.
        start_ns: Start of each event. Both ends are rounded down, so that an event within another stays within it.
        end_ns: End of each event.
        stats: All further values, by name.
        about: What the file says of the plane as a whole.
        dropped: What was left out, and how many.
    """

    def __init__(self, plane: Any) -> None:
        self._names = {entry.key: entry.value.name for entry in plane.stat_metadata}
        self.about = {name: _plain(value) for name, value in _stats_of(plane, self._names)}
        metadata = {entry.key: entry.value for entry in plane.event_metadata}
        self._common = {key: list(_stats_of(value, self._names)) for key, value in metadata.items() if value.stats}
        self._stats: defaultdict[str, _Values] = defaultdict(_Values)
        self._columns = array("q"), array("q"), array("q"), array("q")
        self.dropped: defaultdict[str, int] = defaultdict(int)
        for number, line in enumerate(plane.lines):
            self._read(number, line)
        lines, keys, starts, ends = (np.frombuffer(column, np.int64) for column in self._columns)
        self.line, self.start_ns, self.end_ns = lines.astype(np.int32), starts, ends
        used, self.kind = np.unique(keys, return_inverse=True)
        self.kinds = [_names(metadata.get(key)) for key in used.tolist()]
        self.stats: dict[str, Column] = {name: values.column(len(lines)) for name, values in self._stats.items()}

    def __len__(self) -> int:
        return len(self.line)

    def _read(self, number: int, line: Any) -> None:
        lines, keys, starts, ends = self._columns
        first_ns, common, stats, names = line.timestamp_ns, self._common, self._stats, self._names
        for event in line.events:
            key, start_ps, duration_ps = event.metadata_id, event.offset_ps, event.duration_ps
            if duration_ps < 0:
                self.dropped["events that end before they start"] += 1
                continue
            if not start_ps and event.num_occurrences:
                self.dropped["events without a start, which stand for several"] += 1
                continue
            row = len(lines)
            lines.append(number)
            keys.append(key)
            starts.append(first_ns + start_ps // 1000)
            ends.append(first_ns + (start_ps + duration_ps) // 1000)
            for name, value in common.get(key, ()):
                stats[name].add(row, value)
            for name, value in _stats_of(event, names):
                stats[name].add(row, value)


def _stats_of(message: Any, names: Mapping[int, str]) -> Iterator[tuple[str, Any]]:
    """Return the stats of a plane, an event or an event's name; names of stats may stand for values as well."""
    for stat in message.stats:
        kind = stat.WhichOneof("value")
        value: Any = getattr(stat, kind) if kind else None
        yield names.get(stat.metadata_id, ""), names.get(value, "") if kind == "ref_value" else value


def _names(metadata: Any) -> tuple[str, str]:
    return ("", "") if metadata is None else (metadata.name, metadata.display_name)


class _Values:
    """The values of one stat: whole numbers, and whatever else as JSON. A later value of a row replaces an earlier."""

    def __init__(self) -> None:
        self._rows, self._numbers = array("q"), array("q")
        self._other_rows, self._codes = array("q"), array("i")
        self._others: dict[Any, int] = {}

    def add(self, row: int, value: Any) -> None:
        if type(value) is int and NONE < value < 2**63:
            self._rows.append(row)
            self._numbers.append(value)
        else:
            self._other_rows.append(row)
            self._codes.append(self._others.setdefault(value, len(self._others)))

    def column(self, count: int) -> Column:
        rows, numbers = np.frombuffer(self._rows, np.int64), np.frombuffer(self._numbers, np.int64)
        if not self._others:
            column = np.full(count, NONE)
            column[rows] = numbers
            return column
        found, at = np.unique(numbers, return_inverse=True)
        texts = [*map(_json, self._others), *map(str, found.tolist())]
        codes = np.full(count, -1, np.int32)
        codes[rows] = at + len(self._others)
        codes[np.frombuffer(self._other_rows, np.int64)] = np.frombuffer(self._codes, np.int32)
        return Texts(codes, texts)


def _json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return a value as protobuf's JSON has it: bytes in base64, a float that is no number as a word."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
