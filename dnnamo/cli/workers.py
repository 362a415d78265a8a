"""`workers`: who takes jobs, what each holds, and why queued jobs wait."""

from typing import Any

from dnnamo import client
from dnnamo.cli.output import Format, Output, note, show_object, show_rows
from dnnamo.cli.summary import age
from dnnamo.cli.waiting import note_waiting, why_waiting_here
from dnnamo.records import Worker

__all__ = ["workers"]

_READ = ("name", "queues", "slots", "devices", "jobs", "polled", "up", "set aside")
_COLUMNS = ("name", "queues", "slots", "devices", "jobs", "polled", "started", "seen", "busy", "set_aside")


def workers(output: Output = Format.table) -> None:
    """List the workers with what each holds, and for each queue with queued jobs why they wait."""
    found = client.session().store.workers()
    queues = why_waiting_here()
    if output is Format.json:
        show_object({"workers": [it.to_dict() for it in found], "queues": [it.to_dict() for it in queues]}, output)
        return
    if output is Format.csv:
        show_rows([it.to_dict() for it in found], _COLUMNS, output)
    elif found:
        show_rows([_listed(it) for it in found], _READ, output)
    else:
        note(_nobody())
    note_waiting(queues)


def _nobody() -> str:
    if client.session().is_embedded:
        return "There are no workers: without a broker, jobs run in the process that submits them."
    return "There are no workers. `dnnamo worker` starts one."


def _listed(worker: Worker) -> dict[str, Any]:
    return {
        "name": worker.name,
        "queues": ", ".join(worker.queues),
        "slots": worker.slots,
        "devices": "; ".join(worker.devices),
        "jobs": ", ".join(map(str, worker.jobs)),
        "polled": f"{age(worker.polled)} ago",
        "up": age(worker.started),
        "busy": "; ".join(worker.busy),
        "set aside": "; ".join(worker.set_aside),
    }
