"""Graphs of models in one form for all frameworks: operations, the tensors between them, and what can be said of both.

A framework's plug-in function `graph_of` makes a `Graph` of the framework's own; nothing here imports a framework.
"""

from dnnamo.graphs.records import Graph, GraphOperation, GraphTensor

__all__ = ["Graph", "GraphOperation", "GraphTensor"]
