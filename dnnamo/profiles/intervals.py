"""Stretches of time that overlap, and for how long any of them went on."""

import numpy as np

from dnnamo.profiles.columns import Ints

__all__ = ["ran_ns"]


def ran_ns(start: Ints, end: Ints) -> Ints:
    """Return for how long this stretch or one before it went on, from its start to that of the next.

    The sum is the length of their union.

    Args:
        start: When each began, ascending.
        end: When each ended.
    """
    if not len(start):
        return start
    until = np.maximum.accumulate(end)
    ran: Ints = np.minimum(until, np.append(start[1:], until[-1])) - start
    return ran
