from itertools import count

import pytest

import dnnamo
from dnnamo import model as module
from dnnamo.errors import Unsupported
from dnnamo.model import Capturing, Model, StepClock, capabilities, report_limit, requested_capture, step
from dnnamo.records import METHODS


class Runnable(Model):
    def run_training(self, n_steps=1):
        return []

    def run_inference(self, n_steps=1):
        return []


class Duck:
    """No subclass of `Model`: the interface is names, not a base class."""

    get_weights = "no method"

    def run_inference(self, n_steps=1):
        return []


@pytest.fixture
def ticks(monkeypatch):
    """A clock whose reading grows by 1, 2, 3 ... nanoseconds, so that the n-th step takes 2 n + 1 at most once."""
    readings = count()
    monkeypatch.setattr(module, "perf_counter_ns", lambda: sum(range(next(readings) + 1)))


def test_a_subclass_implements_what_it_overrides_in_the_interfaces_order():
    assert capabilities(Runnable()) == ["run_inference", "run_training"]


def test_what_a_parent_class_overrides_counts():
    class Child(Runnable):
        pass

    assert capabilities(Child()) == ["run_inference", "run_training"]


def test_an_object_without_the_base_class_implements_the_methods_that_it_has():
    assert capabilities(Duck()) == ["run_inference"]


@pytest.mark.parametrize("value", [Model(), object(), None, 3, "run_inference"])
def test_what_has_none_of_the_methods_implements_nothing(value):
    assert capabilities(value) == []


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_is_missing_names_itself_and_what_there_is(method):
    class Other(Model):
        pass

    offered = next(name for name in METHODS if name != method)
    setattr(Other, offered, lambda self: None)
    arguments = ({},) if method == "set_weights" else ()

    with pytest.raises(Unsupported, match=f"Other does not implement {method}. It implements {offered}."):
        getattr(Other(), method)(*arguments)


def test_a_model_without_any_method_says_so():
    with pytest.raises(Unsupported, match="It implements no method of the interface."):
        Model().run_inference()


def test_a_missing_method_is_a_builtin_not_implemented_error():
    with pytest.raises(NotImplementedError):
        Model().get_weights()


def test_a_clock_collects_the_steps_in_order(ticks):
    with StepClock() as clock:
        for _ in range(3):
            with step():
                pass

    assert clock.duration_ns == [1, 3, 5]


def test_a_step_outside_of_a_clock_does_nothing(ticks):
    clock = StepClock()
    with clock:
        pass
    with step():
        pass

    assert clock.duration_ns == []


def test_a_step_that_raises_is_not_counted(ticks):
    with StepClock() as clock:
        with pytest.raises(ZeroDivisionError), step():
            _ = 1 / 0
        with step():
            pass

    assert clock.duration_ns == [3]


def test_a_clock_that_is_left_by_an_exception_collects_no_more():
    with pytest.raises(ZeroDivisionError), StepClock() as clock:
        _ = 1 / 0
    with step():
        pass

    assert clock.duration_ns == []


def test_every_open_clock_gets_the_step():
    with StepClock() as outer:
        with StepClock() as inner, step():
            pass
        with step():
            pass

    assert len(outer.duration_ns) == 2
    assert inner.duration_ns == outer.duration_ns[:1]


def test_nested_steps_have_times_of_their_own(ticks):
    with StepClock() as clock, step(), step():
        pass

    assert clock.duration_ns == [2, 6]


def test_the_mark_is_part_of_the_package():
    assert dnnamo.step is step


def test_a_model_that_profiles_can_ask_what_to_record():
    with Capturing(["memory", "shapes"]):
        assert requested_capture() == {"shapes", "memory"}


def test_outside_of_a_job_nothing_is_asked_for_and_a_limit_goes_nowhere():
    with Capturing(["shapes"]) as capturing:
        pass

    report_limit("The network has no layers.")

    assert requested_capture() == set()
    assert capturing.limits == []


def test_each_limit_is_kept_once():
    with Capturing() as capturing:
        for _ in range(2):
            report_limit("The network has no layers.")
        report_limit("It has no weights.")

    assert capturing.limits == ["The network has no layers.", "It has no weights."]


def test_a_profile_that_fails_is_asked_no_more():
    with pytest.raises(ZeroDivisionError), Capturing(["shapes"]):
        _ = 1 / 0

    assert requested_capture() == set()
