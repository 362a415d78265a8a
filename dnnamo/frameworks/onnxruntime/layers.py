"""Which layer of the network that was exported each operation of an ONNX graph belongs to."""

import ast
from collections.abc import Iterator
from typing import Any

__all__ = ["layers_of"]

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where `torch.onnx.export` notes the modules around an operation, the outermost first and its own name last."""


def layers_of(graph: Any) -> dict[str, str]:
    """Return the path of the module by the names of its operations and of what they give, as the exporter noted it."""
    paths = [(node, _path(node)) for node in graph.node]
    return {name: path for node, path in paths for name in (*node.output, node.name) if name and path}


def _path(node: Any) -> str:
    return next((scopes[-2] for scopes in _scopes(node) if len(scopes) > 1), "")


def _scopes(node: Any) -> Iterator[list[str]]:
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            try:
                found = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError):  # whoever wrote it
                return
            if isinstance(found, list):
                yield [str(scope) for scope in found]
