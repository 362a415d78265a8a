"""ONNX Runtime: the wrapper for any ONNX model, and the framework's plug-in functions."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dnnamo.errors import LoaderError, MissingExtra, ModelError, Unsupported, WeightsError
from dnnamo.graphs.records import Graph
from dnnamo.model import Model, step
from dnnamo.records import Device

# From 1.29 on it tells its makers of the models that it runs, unless this is set before its import (its Privacy.md).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

try:
    import onnx
    import onnxruntime
except ModuleNotFoundError as error:
    raise MissingExtra("ONNX Runtime", extra="onnx") from error

import numpy as np

from dnnamo.frameworks.onnxruntime.batches import Sizes, by_name, inputs_of, random_batch
from dnnamo.frameworks.onnxruntime.graphs import drawn
from dnnamo.frameworks.onnxruntime.layers import layers_of
from dnnamo.frameworks.onnxruntime.sessions import compute, has_cuda, make_session, set_threads, thread_count
from dnnamo.frameworks.onnxruntime.sources import Source
from dnnamo.frameworks.onnxruntime.weights import arrays, with_weights
from dnnamo.frameworks.outputs import Outputs

if TYPE_CHECKING:
    from dnnamo.profiles.readers.onnxruntime import SessionProfile

__all__ = ["OnnxModel", "set_threads"]

Array = np.ndarray[Any, np.dtype[Any]]

_UNMARKED = 2
"""Steps of a session that profiles before the first that counts: one finds out what memory it needs, one takes it."""


class OnnxModel(Model):
    """An ONNX model that ONNX Runtime runs, on the GPU where this process sees one that it can use.

    It has no methods of training. A session is made when it is first needed, with the threads that are set by then.

    Args:
        model: Path of the file, its bytes, or an `onnx.ModelProto`.
        make_batch: Returns one batch: a dict of arrays by the names of the inputs, a tuple in their order, the array of
            the only one, or any of these in a tuple (inputs, targets), whose targets are left out. Called once a step,
            outside of the timed part. By default the same random numbers each time.
        batch: For the default, size of the first dimension of each input that the file leaves open, 8 if None.
        dims: For the default, sizes of the other dimensions that it leaves open, by their names.

    Raises:
        LoaderError: If it is no ONNX model, or such a size is none.
    """

    marks_steps = True
    reasons: Mapping[str, str] = dict.fromkeys(
        ("get_training_graph", "run_training", "profile_training"),
        "ONNX Runtime runs networks and does not train them.",
    )

    def __init__(
        self,
        model: "str | os.PathLike[str] | bytes | onnx.ModelProto",
        make_batch: Callable[[], Any] | None = None,
        *,
        batch: int | None = None,
        dims: Mapping[str, int] | None = None,
    ) -> None:
        if not isinstance(model, str | os.PathLike | bytes | onnx.ModelProto):
            raise LoaderError(
                f"OnnxModel takes the path of an ONNX file, its bytes or an onnx.ModelProto; it was given a "
                f"{type(model).__name__}."
            )
        self._source = Source(model)
        self._inputs = inputs_of(self._source.structure())
        self._sizes = Sizes(self._inputs, batch=batch, dims=dims)
        self._make_batch = make_batch or self._random_batch
        self._random: dict[str, Array] | None = None
        self._session: Any = None

    def get_inference_graph(self) -> Any:
        """Return the model as an `onnx.ModelProto`, with its weights."""
        return self._source.whole()

    def get_weights(self, keys: Iterable[str] | None = None) -> dict[str, Array]:
        """Return the initializers of the graph by name; bfloat16 is `ml_dtypes`'."""
        return arrays(self._source.whole(), keys)

    def set_weights(self, kv: Mapping[str, Any]) -> None:
        """Replace initializers, and make a session of that; all are checked before the model changes."""
        source = Source(with_weights(self._source.whole(), kv))
        try:
            session = make_session(source.loadable(), name=source.name)
        except LoaderError as error:
            raise WeightsError(f"With these weights the model does not run; nothing was changed. {error}") from error
        self._source, self._session = source, session

    def run_inference(self, n_steps: int = 1) -> list[Any]:
        """Return the outputs for `n_steps` batches: the array of the only one, or a tuple of them."""
        session = self._session = self._session or make_session(self._source.loadable(), name=self._source.name)
        outputs = Outputs(_map_outputs, lambda output: output)
        return outputs.arrays([outputs.keep(self._step(session)) for _ in range(n_steps)])

    def profile_inference(self, n_steps: int = 1) -> "SessionProfile":
        """Return what ONNX Runtime's profiler wrote of `n_steps` steps, in a session of their own."""
        from dnnamo.profiles.readers.onnxruntime import SessionProfile

        with TemporaryDirectory(prefix="dnnamo-trace-") as folder:
            session = make_session(self._source.loadable(), name=self._source.name, profile_to=Path(folder) / "trace")
            for _ in range(_UNMARKED):
                compute(session, None, self._batch(), name=self._source.name)
            for _ in range(n_steps):
                self._step(session)
            content = Path(session.end_profiling()).read_bytes()
        return SessionProfile(
            trace=content,
            unmarked=_UNMARKED,
            steps=n_steps,
            base_ns=session.get_profiling_start_time_ns(),
            layers=layers_of(self._source.structure().graph),
        )

    def get_intermediates(
        self, keys: Iterable[str] | None = None, receive: Callable[[str, Any], None] | None = None
    ) -> dict[str, Array]:
        """Return the arrays that the graph's operations make for one batch, by the names of the tensors.

        They are computed apart from the model's own session, some of them at a time. As ONNX Runtime cannot fuse
        operations whose outputs it gives out, they may differ from what it has on the way in the last bits.
        """
        from dnnamo.frameworks.onnxruntime.intermediates import intermediates

        found = intermediates(self._source, self._batch(), keys)
        if receive is None:
            return dict(found)
        for name, array in found:
            receive(name, array)
        return {}

    def _step(self, session: Any) -> Any:
        feeds, name = self._batch(), self._source.name
        with step():
            outputs = compute(session, None, feeds, name=name)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _batch(self) -> dict[str, Any]:
        return by_name(self._make_batch(), self._inputs)

    def _random_batch(self) -> dict[str, Array]:
        self._random = self._random or random_batch(self._inputs, self._sizes)
        return self._random


def _map_outputs(function: Callable[[Any], Any], outputs: Any) -> Any:
    return tuple(map(function, outputs)) if isinstance(outputs, tuple) else function(outputs)


def libraries() -> dict[str, str]:
    """Return the versions of ONNX Runtime, ONNX and NumPy, and of CUDA where ONNX Runtime was built for it."""
    found = {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__, "numpy": np.__version__}
    cuda = getattr(onnxruntime, "cuda_version", "")
    return found | ({"cuda": str(cuda)} if cuda else {})


def threads() -> dict[str, int]:
    """Return how many threads the next session computes with, within an operation and across them."""
    return {"onnxruntime.intraop": thread_count(), "onnxruntime.interop": 1}


def seed(number: int) -> None:
    """Seed the operations that draw random numbers."""
    onnxruntime.set_seed(number)


def check_device(device: Device) -> None:
    """Raise `Unsupported` for a GPU job where ONNX Runtime was not built for one, or sees none."""
    if device == "gpu" and not has_cuda():
        raise Unsupported(
            f"The job wants a GPU, and ONNX Runtime {onnxruntime.__version__} can use none in this process. Run it on "
            "a worker with a GPU and onnxruntime-gpu in place of onnxruntime, or with --device cpu."
        )


def graph_file(graph: object) -> tuple[str, bytes] | None:
    """Return an `onnx.ModelProto` as it is in a file.

    Raises:
        ModelError: If it is larger than a file of one piece may be.
    """
    if not isinstance(graph, onnx.ModelProto):
        return None
    try:
        return "graph.onnx", graph.SerializeToString(deterministic=True)
    except (ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"The graph has {graph.ByteSize():,} bytes with its weights, more than one ONNX file may have. Its file is "
            "the graph already; take that."
        ) from error


def graph_of(native: object) -> Graph | None:
    """Return the neutral form of an `onnx.ModelProto`; None for anything else."""
    return drawn(native) if isinstance(native, onnx.ModelProto) else None
