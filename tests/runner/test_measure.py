"""The models here are fakes: what is tested is who calls them how often, and what is made of what they return."""

import math

import numpy as np
import pytest

import dnnamo
from dnnamo.errors import ModelError, NonFiniteLoss
from dnnamo.model import Model
from dnnamo.records import Warmup
from dnnamo.runner import measure
from dnnamo.runner.measure import Profiled, losses_and_scores, paired_profile, profile, run, warm_up


class Clock:
    """A clock that stands still until somebody moves it."""

    def __init__(self) -> None:
        self.now_ns = 10**15

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measure, "perf_counter_ns", clock)
    monkeypatch.setattr("dnnamo.model.perf_counter_ns", clock)
    return clock


class FakeBare(Model):
    """Says how it was called; the n-th step takes the n-th time, and the last time for ever after."""

    def __init__(self, clock=None, times=(0,)) -> None:
        self.calls = []
        self._clock, self._times = clock, list(times)
        self.losses = iter(lambda: (0.5, 1.0), None)

    def _step(self):
        if self._clock:
            self._clock.now_ns += self._times.pop(0) if len(self._times) > 1 else self._times[0]

    def run_inference(self, n_steps=1):
        self.calls.append(n_steps)
        self._step()
        return [len(self.calls)]

    def run_training(self, n_steps=1):
        self.calls.append(n_steps)
        self._step()
        return [next(self.losses)]


class FakeMarked(FakeBare):
    """Marks its steps, apart from the first `unmarked` of a call."""

    marks_steps = True
    unmarked = 0

    def run_inference(self, n_steps=1):
        self.calls.append(n_steps)
        for _ in range(n_steps - self.unmarked):
            with dnnamo.step():
                self._step()
        return list(range(n_steps))

    def profile_inference(self, n_steps=1):
        self.run_inference(n_steps)
        return "native data"


class FakeReturns(Model):
    """Returns what it was given."""

    def __init__(self, value) -> None:
        self.value = value

    def run_inference(self, n_steps=1):
        return self.value

    def run_training(self, n_steps=1):
        return self.value


def test_a_bare_model_is_called_once_a_step(clock):
    model = FakeBare(clock, [5, 7, 9])

    returned, durations = run(model, "run_inference", n_steps=3)

    assert model.calls == [1, 1, 1]
    assert returned == [1, 2, 3]
    assert durations == [5, 7, 9]


def test_a_model_that_marks_its_steps_is_called_once_for_all(clock):
    model = FakeMarked(clock, [5, 7, 9])

    returned, durations = run(model, "run_inference", n_steps=3)

    assert model.calls == [3]
    assert returned == [0, 1, 2]
    assert durations == [5, 7, 9]


def test_an_object_without_the_base_class_is_a_bare_model():
    class Duck:
        def run_inference(self, n_steps=1):
            return [n_steps]

    assert run(Duck(), "run_inference", n_steps=2)[0] == [1, 1]


def test_a_tuple_is_as_good_as_a_list():
    assert run(FakeReturns((7,)), "run_inference", n_steps=1)[0] == [7]


@pytest.mark.parametrize("value", [np.ones(1), "a", {0: 1}, None, 3, iter([1])])
def test_what_is_no_list_says_what_it_was(value):
    with pytest.raises(ModelError, match=f"run_inference must return a list .* returned a {type(value).__name__}"):
        run(FakeReturns(value), "run_inference", n_steps=1)


@pytest.mark.parametrize("value", [[], [1, 2]])
def test_a_list_of_another_length_says_both_lengths(value):
    with pytest.raises(ModelError, match=f"asked for 1 steps and returned a list of {len(value)} items"):
        run(FakeReturns(value), "run_inference", n_steps=1)


def test_a_marking_model_that_returns_another_length_says_both_lengths():
    class Fake(FakeMarked):
        def run_inference(self, n_steps=1):
            return super().run_inference(n_steps)[:-1]

    with pytest.raises(ModelError, match="run_inference was asked for 3 steps and returned a list of 2 items"):
        run(Fake(), "run_inference", n_steps=3)


@pytest.mark.parametrize("unmarked", [1, 3, -1])
def test_a_model_that_marks_another_number_of_steps_says_both(unmarked):
    model = FakeMarked()
    model.unmarked = unmarked

    with pytest.raises(ModelError, match=f"asked for 3 steps and marked {3 - unmarked}. .*with dnnamo.step"):
        run(model, "run_inference", n_steps=3)


def test_a_step_that_raises_ends_the_run_at_once():
    class Fake(FakeBare):
        def run_inference(self, n_steps=1):
            if len(self.calls) == 2:
                raise OSError("gone")
            return super().run_inference(n_steps)

    model = Fake()
    with pytest.raises(OSError, match="gone"):
        run(model, "run_inference", n_steps=5)
    assert len(model.calls) == 2


def test_profiling_calls_once_for_all_steps_and_takes_the_marked_times(clock):
    model = FakeMarked(clock, [5, 7])

    assert profile(model, "profile_inference", n_steps=2) == Profiled("native data", [5, 7])
    assert model.calls == [2]


def test_profiling_a_model_without_marks_gives_no_times():
    class Fake(Model):
        def profile_training(self, n_steps=1):
            return n_steps

    assert profile(Fake(), "profile_training", n_steps=4) == Profiled(4, [])


def test_unprofiled_steps_run_before_and_after_the_profiled_ones(clock):
    model = FakeMarked(clock, [1, 2, 10, 20, 30, 3])
    seen = []

    profiled = paired_profile(model, "profile_inference", n_steps=3, on_step=lambda: seen.append("step"))

    assert profiled == Profiled("native data", [10, 20, 30], before_ns=[1, 2], after_ns=[3])
    assert model.calls == [2, 3, 1]
    assert len(seen) == 3


def test_what_can_only_be_profiled_has_no_unprofiled_steps():
    class Fake(Model):
        def profile_training(self, n_steps=1):
            return n_steps

    assert paired_profile(Fake(), "profile_training", n_steps=4) == Profiled(4, [])


@pytest.mark.parametrize(
    ("times", "steps"),
    [
        ([100], 3),
        ([100, 50, 30, 20, 20, 22, 99], 6),
        ([100, 50, 30, 20, 20, 23, 22, 22], 8),
        ([1000, 110, 100, 105, 1], 4),
        ([0], 3),
    ],
)
def test_warms_up_until_three_steps_lie_within_a_tenth_of_each_other(times, steps, clock):
    model = FakeBare(clock, times)

    warmup = warm_up(model, "run_inference", count=None)

    assert warmup.count == len(model.calls) == steps
    assert warmup.duration_ns == (times + times[-1:] * steps)[:steps]


def test_a_step_time_that_never_settles_ends_the_warm_up_after_thirty_steps(clock):
    model = FakeBare(clock, [100, 200] * 30)

    assert warm_up(model, "run_inference", count=None).count == 30


def test_the_warm_up_ends_after_five_seconds_of_steps_beside_the_one_that_compiles(clock):
    model = FakeBare(clock, [60 * 10**9, 3 * 10**9, 10**9, 10**9 - 1, 1, 10**9])

    assert warm_up(model, "run_inference", count=None).count == 5


@pytest.mark.parametrize("count", [0, 1, 40])
def test_a_number_of_warm_up_steps_is_kept_whatever_they_take(count, clock):
    model = FakeBare(clock, [6 * 10**9])

    warmup = warm_up(model, "run_inference", count=count)

    assert warmup == Warmup(count=count, duration_ns=[6 * 10**9] * count)
    assert model.calls == [1] * count


@pytest.mark.parametrize("method", ["profile_inference", "run_inference"])
def test_warm_up_steps_of_a_marking_model_are_single_calls(method, clock):
    model = FakeMarked(clock, [5])

    assert warm_up(model, method, count=2).duration_ns == [5, 5]
    assert model.calls == [1, 1]


def test_profiling_is_warmed_up_by_the_same_kind_of_step():
    class Fake(FakeBare):
        def profile_training(self, n_steps=1):
            raise AssertionError

        def run_inference(self, n_steps=1):
            raise AssertionError

    assert warm_up(Fake(), "profile_training", count=3).count == 3


def test_a_model_that_can_only_be_profiled_is_not_warmed_up():
    class Fake(Model):
        def profile_inference(self, n_steps=1):
            raise AssertionError

    assert warm_up(Fake(), "profile_inference", count=5) == Warmup()


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_loss_that_is_not_finite_in_the_warm_up_names_phase_and_step(loss):
    model = FakeBare()
    model.losses = iter([(0.5, None), (0.4, None), (loss, None), (0.3, None)])

    with pytest.raises(NonFiniteLoss) as caught:
        warm_up(model, "run_training", count=4)

    assert f"The loss of warm-up step 2 is {float(loss)}" in str(caught.value)
    assert caught.value.step == 2


def test_a_loss_that_is_not_finite_in_a_counted_step_names_phase_and_step():
    with pytest.raises(NonFiniteLoss, match="The loss of training step 1 is nan.*learning rate") as caught:
        losses_and_scores([(0.5, None), (math.nan, None), (math.inf, None)], phase="training")

    assert caught.value.step == 1
    assert isinstance(caught.value, ArithmeticError)


@pytest.mark.parametrize(
    ("returned", "losses", "scores"),
    [
        ([], [], []),
        ([(0.5, 1), [0.25, None]], [0.5, 0.25], [1.0, None]),
        ([(None, None), (None, 0.5)], [None, None], [None, 0.5]),
        ([0.5, None], [0.5, None], [None, None]),
        ([(np.float32(0.5), np.array(2))], [0.5], [2.0]),
        ([(0.5, math.nan)], [0.5], [math.nan]),
    ],
)
def test_losses_and_scores_are_numbers_or_none(returned, losses, scores):
    assert str(losses_and_scores(returned, phase="training")) == str((losses, scores))


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (("low", 1), "the loss of step 1 is a str"),
        ((0.5, [1]), "the score of step 1 is a list"),
        ((0.5, 1, 2), "the loss of step 1 is a tuple"),
        ({"loss": 1}, "the loss of step 1 is a dict"),
        (np.ones(2), "the loss of step 1 is a ndarray"),
    ],
)
def test_what_is_no_loss_and_score_says_what_it_was(item, says):
    with pytest.raises(ModelError, match=r"run_training must return tuples \(loss, score\) of numbers") as caught:
        losses_and_scores([(0.5, 1), item], phase="training")

    assert says in str(caught.value)
