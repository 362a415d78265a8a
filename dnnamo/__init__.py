"""Run and profile many neural networks through a queue, and query what was measured in a database."""

from dnnamo.client import JobHandle, StoredProfile, cancel, graph, import_trace, job, jobs, profile, run, submit
from dnnamo.errors import DnnamoError
from dnnamo.model import Model, capabilities, report_loss, step

__all__ = [
    "DnnamoError",
    "JobHandle",
    "Model",
    "StoredProfile",
    "cancel",
    "capabilities",
    "graph",
    "import_trace",
    "job",
    "jobs",
    "profile",
    "report_loss",
    "run",
    "step",
    "submit",
]

__version__ = "0.1.0"
