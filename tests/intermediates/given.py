"""Intermediates to store."""

from dnnamo.intermediates import Intermediate

__all__ = ["INTERMEDIATES"]

INTERMEDIATES = [
    Intermediate(
        name="block.0",
        dtype="float32",
        shape=[2, 32],
        bytes=256,
        non_finite=2,
        zeros=16,
        min=-0.1,
        max=1e300,
        mean=1 / 3,
        std=5e-324,
        histogram=[61, *[0] * 62, 1],
    ),
    Intermediate(
        name="block.0#2",
        dtype="bfloat16",
        shape=[0, 2**40],
        bytes=0,
        non_finite=0,
        zeros=0,
        min=None,
        max=None,
        mean=None,
        std=None,
        histogram=[],
    ),
]
