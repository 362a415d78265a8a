"""Arrays on the edges of a network: which are asked for, and what their numbers come to.

Nothing here imports a framework.
"""

from dnnamo.intermediates.records import BINS, Intermediate

__all__ = ["BINS", "Intermediate"]
