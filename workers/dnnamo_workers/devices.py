"""What this machine can compute on."""

from dnnamo.records import Device
from dnnamo.runner.environment import gpus_and_driver

__all__ = ["device_classes"]


def device_classes() -> list[Device]:
    """Return the device classes that this machine can serve: `cpu`, and `gpu` if NVML sees one."""
    gpus, _ = gpus_and_driver()
    return ["cpu", "gpu"] if gpus else ["cpu"]
