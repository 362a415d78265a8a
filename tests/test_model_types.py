import pytest

from dnnamo.model import Model
from dnnamo.model_types import (
    MODEL_TYPES,
    GraphModel,
    LearningModel,
    RunnableModel,
    WeightsModel,
    is_of_type,
    methods_of,
    types_among,
    types_of,
)
from dnnamo.records import METHODS


class Learning(Model):
    def run_inference(self, n_steps=1):
        return []

    def run_training(self, n_steps=1):
        return []


class Duck:
    """No subclass of `Model`."""

    def get_weights(self, keys=None):
        return {}

    def set_weights(self, kv):
        pass


@pytest.mark.parametrize(
    ("model", "types"),
    [(Learning(), ["runnable", "learning"]), (Duck(), ["weights"]), (Model(), []), (object(), [])],
)
def test_a_model_is_of_the_types_whose_methods_it_implements(model, types):
    assert types_of(model) == types
    assert [name for name, kind in MODEL_TYPES.items() if is_of_type(model, kind)] == types


def test_a_part_of_a_types_methods_is_not_the_type():
    assert types_among(["get_weights", "run_training", "get_training_graph", "profile_training"]) == []


def test_all_methods_are_all_types():
    assert types_among(METHODS) == list(MODEL_TYPES)


def test_types_consist_of_methods_of_the_interface():
    assert methods_of(LearningModel) == ["run_inference", "run_training"]
    assert methods_of(WeightsModel) == ["get_weights", "set_weights"]
    assert all(methods_of(kind) for kind in MODEL_TYPES.values())


def test_protocols_fit_what_is_written_for_them():
    runnable: RunnableModel = Learning()
    learning: LearningModel = Learning()
    graph: GraphModel = Model()

    assert runnable.run_inference() == learning.run_training() == []
    assert not is_of_type(graph, GraphModel)
