"""`ops`: the tables of a profile."""

from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer

from dnnamo import client
from dnnamo.cli.jobs import Id
from dnnamo.cli.output import Format, Output, note, show_object, show_rows
from dnnamo.cli.summary import counted, verdict
from dnnamo.records import Operation, ProfiledStep, Record
from dnnamo.sizes import as_size
from dnnamo.stored import By, StoredProfile

__all__ = ["note_verdict", "ops"]

_ALWAYS = ("name", "step", "calls")
"""Columns that stay where they are empty."""


def ops(
    id: Id,  # noqa: A002
    by: Annotated[By, typer.Option(help="What the calls in one row have in common.")] = "name",
    top: Annotated[int | None, typer.Option(help="Only the first so many rows.", min=1)] = None,
    output: Output = Format.table,
) -> None:
    """Show what a profile's time went to: by operation, input shapes, layer, step, or kernel."""
    profile = client.job(id).profile
    rows: Sequence[Record] = profile.ops(by)
    shown = rows[:top]
    if output is Format.json:
        show_object(_described(id, by, profile, shown), output)
        return
    if output is Format.csv:
        columns = (ProfiledStep if by == "step" else Operation).__struct_fields__
        show_rows([row.to_dict() for row in shown], columns, output)
    else:
        _show([_step(cast("ProfiledStep", row)) for row in shown] if by == "step" else _operations(rows, len(shown)))
    _note_coverage(profile)
    note_verdict(profile)


def _described(job_id: int, by: By, profile: StoredProfile, rows: Sequence[Record]) -> dict[str, Any]:
    return {
        "id": job_id,
        "by": by,
        "source": profile.source,
        "verdict": profile.verdict,
        "reasons": profile.reasons,
        "coverage": profile.coverage,
        "rows": [row.to_dict() for row in rows],
    }


def _show(rows: Sequence[dict[str, str]]) -> None:
    columns = [name for name in (rows[0] if rows else _ALWAYS) if name in _ALWAYS or any(row[name] for row in rows)]
    show_rows(rows, columns, Format.table)


def _operations(rows: Sequence[Any], shown: int) -> list[dict[str, str]]:
    """Return the cells of the first rows; shares are of all of them."""
    host, device = (sum(getattr(row, name) for row in rows) for name in ("self_ns", "device_ns"))
    return [_operation(row, host, device) for row in rows[:shown]]


def _operation(row: Operation, host_ns: int, device_ns: int) -> dict[str, str]:
    return {
        "name": row.name or "(whole model)",
        "calls": f"{row.calls:,}",
        "self": _share(row.self_ns, host_ns),
        "self ms": _ms(row.self_ns),
        "total ms": _ms(row.total_ns),
        "device": _share(row.device_ns, device_ns),
        "device ms": _ms(row.device_ns),
        "device total ms": _ms(row.device_total_ns),
        "GFLOP": f"{row.flops / 1e9:,.4f}" if row.flops else "",
        "bytes": as_size(row.bytes) if row.bytes else "",
        "peak": as_size(row.peak_bytes) if row.peak_bytes else "",
        "shapes": "" if row.shapes is None else str(row.shapes),
    }


def _step(row: ProfiledStep) -> dict[str, str]:
    return {
        "step": str(row.number),
        "calls": f"{row.calls:,}",
        "profiled ms": _ms(row.wall_ns),
        "covered": _share(row.covered_ns, row.wall_ns),
        "self ms": _ms(row.self_ns),
        "device ms": _ms(row.device_ns),
        "peak": as_size(row.peak_bytes) if row.peak_bytes else "",
    }


def _ms(duration_ns: int) -> str:
    return f"{duration_ns / 1e6:,.3f}" if duration_ns else ""


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if part and whole else ""


def _note_coverage(profile: StoredProfile) -> None:
    if not profile.steps:
        note("No step is marked in this profile, so this is of everything that was recorded.")
    elif profile.coverage is not None:
        steps = counted(len(profile.steps), "step")
        note(f"{steps} with the profiler on; an operation ran for {profile.coverage:.1%} of them.")


def note_verdict(profile: StoredProfile) -> None:
    """Say how far the figures of a profile can be trusted, and what it lacks."""
    note(f"Verdict: {verdict(profile.record)}")
    for limit in profile.record.notes:
        note(f"Note: {limit}")
