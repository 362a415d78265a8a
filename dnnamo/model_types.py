"""What kinds of models there are, by the methods that they implement, and which tool needs which methods."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from dnnamo.model import capabilities
from dnnamo.records import METHODS

__all__ = [
    "MODEL_TYPES",
    "TOOLS",
    "GraphModel",
    "IntermediatesModel",
    "LearningModel",
    "ProfiledModel",
    "RunnableModel",
    "Tool",
    "WeightsModel",
    "is_of_type",
    "methods_of",
    "types_among",
    "types_of",
]


class GraphModel(Protocol):
    """A model that can be looked at without being run."""

    def get_inference_graph(self) -> Any:
        """Return the framework's own graph of an inference step."""


class WeightsModel(Protocol):
    """A model whose weights can be read and changed."""

    def get_weights(self, keys: Iterable[str] | None = None) -> dict[str, Any]:
        """Return the weights by identifier."""

    def set_weights(self, kv: Mapping[str, Any]) -> None:
        """Update the named weights."""


class RunnableModel(Protocol):
    """A model that predicts."""

    def run_inference(self, n_steps: int = 1) -> list[Any]:
        """Return the predictions of some inputs."""


class LearningModel(RunnableModel, Protocol):
    """A model that predicts and can be trained."""

    def run_training(self, n_steps: int = 1) -> list[Any]:
        """Train for some minibatches; return a tuple (loss, score) of each."""


class ProfiledModel(Protocol):
    """A model that can be profiled while it predicts."""

    def profile_inference(self, n_steps: int = 1) -> Any:
        """Return the framework's own profiling data of some steps."""


class IntermediatesModel(Protocol):
    """A model that shows the arrays within it."""

    def get_intermediates(
        self, keys: Iterable[str] | None = None, receive: Callable[[str, Any], None] | None = None
    ) -> dict[str, Any]:
        """Return the arrays on the dataflow edges by identifier."""


MODEL_TYPES: dict[str, type] = {
    "graph": GraphModel,
    "weights": WeightsModel,
    "runnable": RunnableModel,
    "learning": LearningModel,
    "profiled": ProfiledModel,
    "intermediates": IntermediatesModel,
}
"""The types by the names that `dnnamo show` has for them."""


def methods_of(kind: type) -> list[str]:
    """Return the methods that a model type consists of, in the interface's order."""
    return [method for method in METHODS if hasattr(kind, method)]


def types_of(model: object) -> list[str]:
    """Return the names of the types that a model is of."""
    return types_among(capabilities(model))


def types_among(methods: Iterable[str]) -> list[str]:
    """Return the names of the types that a model is of which implements these methods."""
    able = set(methods)
    return [name for name, kind in MODEL_TYPES.items() if able.issuperset(methods_of(kind))]


def is_of_type(model: object, kind: type) -> bool:
    """Whether a model implements all of a type's methods.

    Not `isinstance`: a subclass of `dnnamo.Model` has all methods by name, and implements those that it overrides.
    """
    return set(capabilities(model)).issuperset(methods_of(kind))


class Tool(NamedTuple):
    """What a user can ask for, and what a model must have for it.

    Attributes:
        verb: On the command line.
        python: In Python.
        needs: Methods that the model must have, all of them.
        besides: What else there is to say.
    """

    verb: str
    python: str
    needs: tuple[str, ...]
    besides: str = ""


_UNPROFILED = "unprofiled times if there is `{}`; `--flops` needs `count_flops`"
_EVERYWHERE = "with every verb that loads a model"

TOOLS = (
    Tool("run", "dnnamo.run(model)", ("run_inference",)),
    Tool("run --mode training", 'dnnamo.run(model, mode="training")', ("run_training",)),
    Tool("profile", "dnnamo.profile(model)", ("profile_inference",), _UNPROFILED.format("run_inference")),
    Tool(
        "profile --mode training",
        'dnnamo.profile(model, mode="training")',
        ("profile_training",),
        _UNPROFILED.format("run_training"),
    ),
    Tool("graph", "dnnamo.graph(model)", ("get_inference_graph",)),
    Tool("graph --mode training", 'dnnamo.graph(model, mode="training")', ("get_training_graph",)),
    Tool("weights", 'dnnamo.submit(model, "get_weights")', ("get_weights",)),
    Tool("intermediates", 'dnnamo.submit(model, "get_intermediates")', ("get_intermediates",)),
    Tool("run --weights FILE", "weights=", ("set_weights",), _EVERYWHERE),
    Tool("run --precision TYPE", "precision=, compile=, …", ("configure",), _EVERYWHERE),
)
"""Every tool that takes a model. What looks at stored jobs (`show`, `ops`, `export`, …) takes none."""
