"""`timeline`: what each thread and stream did, column by column of time."""

import shutil
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dnnamo import client
from dnnamo.cli.jobs import Id
from dnnamo.cli.operations import note_verdict
from dnnamo.cli.output import Format, Output, show_lines, show_object, show_rows
from dnnamo.cli.summary import device_line
from dnnamo.errors import UsageError
from dnnamo.stored import StoredProfile

if TYPE_CHECKING:
    from dnnamo.profiles.events import Events
    from dnnamo.profiles.overview import TrackView

__all__ = ["timeline"]

_BARS = " ▁▂▃▄▅▆▇█"
_LETTERS = string.ascii_lowercase[:20]
_OTHERS = "·"
_MOST_TRACKS = 24
_HEADING = 26

_OF_EVENT = ("name", "category", "start_ns", "duration_ns", "device", "stream", "step", "layer")
_OF_MERGED = ("merged", "busy_ns")


def timeline(
    id: Id,  # noqa: A002
    begin: Annotated[
        float | None, typer.Option("--from", metavar="MS", help="Begin so long after the first event.")
    ] = None,
    end: Annotated[float | None, typer.Option("--to", metavar="MS", help="End so long after the first event.")] = None,
    width: Annotated[int | None, typer.Option(help="Columns of time; by default what fits.", min=1, max=10_000)] = None,
    output: Output = Format.table,
) -> None:
    """Show how busy each thread and stream was over time, and with what; JSON and CSV have the events."""
    profile = client.job(id).profile
    seen = _look(profile, begin, end, width or _fitting_width())
    if output is Format.json:
        show_object({"id": id, **_described(profile, seen)}, output)
        return
    if output is Format.csv:
        show_rows(_rows(seen), ("track", *_OF_EVENT, *_OF_MERGED), output)
    else:
        show_lines((f"{heading:<{_HEADING}}", line) for heading, line in _lines(profile, seen))
    note_verdict(profile)


def _fitting_width() -> int:
    return max(20, shutil.get_terminal_size((120, 24)).columns - _HEADING - len(" 100 %"))


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A stretch of a profile; times are nanoseconds on the clock of its events.

    Attributes:
        first_ns: Start of the profile's first event.
        start_ns: Where the stretch begins.
        end_ns: Where it ends.
        columns: How many columns it is shown in.
        events: The events in it.
        metadata: What belongs to the profile as a whole.
        views: What each track did.
        steps: Which step starts in a column.
    """

    first_ns: int
    start_ns: int
    end_ns: int
    columns: int
    events: "Events"
    metadata: Mapping[str, Any]
    views: "Sequence[TrackView]"
    steps: Mapping[int, str]

    @property
    def resolution_ns(self) -> int:
        """Length of a column."""
        return max(1, (self.end_ns - self.start_ns) // self.columns)

    def ms(self, moment_ns: int) -> str:
        """Return a moment as people count it, from the first event."""
        return f"{(moment_ns - self.first_ns) / 1e6:,.3f}"


def _look(profile: StoredProfile, from_ms: float | None, to_ms: float | None, columns: int) -> _Seen:
    from dnnamo.profiles.file import begin_ns, metadata_of
    from dnnamo.profiles.overview import overview, step_columns

    first = begin_ns(profile.file)
    whole_ms = profile.record.span_ns / 1e6
    start, end = (first + round(at * 1e6) for at in (from_ms or 0.0, whole_ms if to_ms is None else to_ms))
    if end <= start:
        raise UsageError(
            f"Nothing lies from {from_ms or 0:g} to {to_ms or 0:g} ms; the profile is {whole_ms:.3f} ms long."
        )
    metadata, events = metadata_of(profile.file), profile.events(start_ns=start, end_ns=end)
    bounds = {"start_ns": start, "end_ns": end, "columns": columns}
    views, steps = overview(events, metadata, **bounds), step_columns(events, **bounds)
    return _Seen(first_ns=first, **bounds, events=events, metadata=metadata, views=views, steps=steps)


def _described(profile: StoredProfile, seen: _Seen) -> dict[str, Any]:
    return {
        "verdict": profile.verdict,
        "reasons": profile.reasons,
        "first_ns": seen.first_ns,
        "start_ns": seen.start_ns,
        "end_ns": seen.end_ns,
        "resolution_ns": seen.resolution_ns,
        "devices": [device.to_dict() for device in profile.devices],
        "tracks": [_view(it) for it in seen.views],
        "events": _rows(seen),
    }


def _view(view: "TrackView") -> dict[str, Any]:
    track = view.track
    named = {"name": track.name, "process": track.process, "thread": track.thread, "is_device": track.is_device}
    return {**named, "busy": view.busy, "dominant": view.dominant}


def _rows(seen: _Seen) -> list[dict[str, Any]]:
    """Return the events as JSON values, those merged that would be narrower than a column."""
    from dnnamo.profiles.tracks import tracks
    from dnnamo.profiles.window import summarised

    events = summarised(seen.events, seen.resolution_ns)
    table = events.to_arrow().select([*_OF_EVENT, *(f"args.{name}" for name in _OF_MERGED)])
    rows = table.rename_columns([*_OF_EVENT, *_OF_MERGED]).to_pylist()
    names = [track.name for track in tracks(events, seen.metadata) for _ in rows[track.rows]]
    return [{"track": name, **row} for name, row in zip(names, rows, strict=True)]


def _lines(profile: StoredProfile, seen: _Seen) -> list[tuple[str, str]]:
    """Return the picture, as pairs of a heading and a line."""
    busiest = sorted(seen.views, key=lambda view: -view.busy_share)[:_MOST_TRACKS]
    shown = [view for view in seen.views if view in busiest]
    letters = _letters(shown)
    column = f"{seen.resolution_ns / 1e6:,.4g} ms a column"
    said = [("time", f"{seen.ms(seen.start_ns)} to {seen.ms(seen.end_ns)} ms, {column}")]
    if seen.steps:
        said.append(("steps", _ruler(seen.steps, seen.columns)))
    for view in shown:
        said += _picture(view, letters)
    if len(shown) < len(seen.views):
        said.append(("", f"and {len(seen.views) - len(shown)} that were less busy; -o json has all"))
    said += [(f"{letter:>{_HEADING}}", _shortened(name)) for name, letter in letters.items()]
    said += [(f"device {it.device}", f"{device_line(it)}; of the whole profile") for it in profile.devices]
    return said


def _letters(views: "Sequence[TrackView]") -> dict[str, str]:
    """Return a letter for each of the names that lead most columns."""
    columns = Counter(name for view in views for name in view.dominant if name is not None)
    return {name: letter for (name, _), letter in zip(columns.most_common(), _LETTERS, strict=False)}


def _ruler(steps: Mapping[int, str], columns: int) -> str:
    """Return a line with each step's number where it starts, as far as there is room for it."""
    line = ""
    for column, number in sorted(steps.items()):
        if column >= len(line) and column + len(number) < columns:
            line = f"{line:<{column}}|{number} "
    return line.rstrip()


def _picture(view: "TrackView", letters: Mapping[str, str]) -> list[tuple[str, str]]:
    heights = "".join(_BARS[min(8, -int(-share * 8 // 1))] for share in view.busy)
    names = "".join(" " if it is None else letters.get(it, _OTHERS) for it in view.dominant)
    return [(_shortened(view.track.name, _HEADING), f"{heights} {view.busy_share:.0%}"), ("", names.rstrip())]


def _shortened(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
