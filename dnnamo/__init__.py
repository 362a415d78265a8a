"""Run and profile many neural networks through a queue, and query what was measured in a database."""

from dnnamo.client import JobHandle, job, jobs, profile, run, submit
from dnnamo.errors import DnnamoError
from dnnamo.model import Model, capabilities, step

__all__ = ["DnnamoError", "JobHandle", "Model", "capabilities", "job", "jobs", "profile", "run", "step", "submit"]

__version__ = "0.1.0"
