from dnnamo.profiles.events import NONE
from dnnamo.profiles.links import link, steps_of
from tests.profiles.rows import kernel, launch, row, step, table


def linked(*rows):
    return link(table(*rows))


def by_name(events, column):
    """What a link column says, by the event's name; rows by their names."""
    values = getattr(events, column)
    return {
        name: None if value == NONE else events.name[value]
        for name, value in zip(events.name.to_list(), values.tolist(), strict=True)
    }


def layers(*rows):
    events = linked(*rows)
    return dict(zip(events.name.to_list(), events.layer.to_list(), strict=True))


def test_no_events_have_no_links():
    assert len(linked()) == 0


def test_a_kernel_belongs_to_the_operation_with_its_id():
    events = linked(row("mm", 0, 10, operation=3), row("add", 10, 20, operation=4), kernel("gemm", 30, 40, operation=3))

    assert by_name(events, "launcher") == {"mm": None, "add": None, "gemm": "mm"}


def test_a_kernel_without_an_id_belongs_to_the_operation_around_its_launch():
    rows = row("outer", 0, 50), row("mm", 0, 10), launch(2, 4, 77), launch(12, 14, 78, name="cudaMemcpyAsync")
    events = linked(*rows, kernel("gemm", 60, 70, correlation=77), kernel("copy", 70, 71, correlation=78))

    assert by_name(events, "launcher")["gemm"] == "mm"
    assert by_name(events, "launcher")["copy"] == "outer"


def test_all_kernels_of_a_cuda_graph_belong_to_the_operation_that_launched_it():
    rows = row("replay", 0, 10), launch(2, 4, 9, name="cudaGraphLaunch")
    kernels = [kernel(f"k{number}", 20 + number, 21 + number, correlation=9) for number in range(3)]

    assert set(by_name(linked(*rows, *kernels), "launcher").items()) >= {(f"k{n}", "replay") for n in range(3)}


def test_a_kernel_whose_launch_is_not_there_belongs_to_nothing():
    events = linked(row("mm", 0, 10, operation=1), kernel("gemm", 3, 9, operation=5, correlation=6))

    assert by_name(events, "launcher")["gemm"] is None


def test_steps_are_where_they_are_marked_on_whatever_thread():
    found = steps_of(
        table(step(4, 30, 40), step(3, 0, 20, "other"), row("7", 50, 60, category="step"), row("ProfilerStep#x", 1, 2))
    )

    assert (found.number.tolist(), found.start_ns.tolist(), found.end_ns.tolist()) == (
        [3, 4, 7],
        [0, 30, 50],
        [20, 40, 60],
    )


def test_a_step_ends_where_the_next_begins():
    assert steps_of(table(step(0, 0, 25), step(1, 20, 30))).end_ns.tolist() == [20, 30]


def test_an_event_belongs_to_the_step_that_it_starts_in():
    events = linked(
        step(1, 10, 20),
        step(2, 20, 30),
        row("before", 5, 12),
        row("a", 10, 11),
        row("b", 19, 25),
        row("c", 20, 21, "t"),
        row("after", 30, 31),
    )

    steps = dict(zip(events.name.to_list(), events.step.tolist(), strict=True))
    assert {name: steps[name] for name in ("before", "a", "b", "c", "after")} == {
        "before": NONE,
        "a": 1,
        "b": 1,
        "c": 2,
        "after": NONE,
    }


def test_a_kernel_belongs_to_the_step_that_launched_it():
    rows = step(1, 0, 10), step(2, 10, 20), row("mm", 2, 8, operation=5), launch(3, 4, 6)
    events = linked(
        *rows, kernel("late", 12, 18, operation=5), kernel("called", 25, 28, correlation=6), kernel("lost", 13, 14)
    )

    steps = dict(zip(events.name.to_list(), events.step.tolist(), strict=True))
    assert (steps["late"], steps["called"], steps["lost"]) == (1, 1, 2)


def test_a_backward_operation_belongs_to_the_last_forward_one_with_its_number():
    forward = row("linear", 0, 10, sequence=4, forward_thread=0), row("addmm", 2, 8, sequence=4, forward_thread=0)
    backward = row("AddmmBackward0", 20, 30, "autograd", sequence=4, forward_thread=1), row("mm", 22, 25, "autograd")

    assert by_name(linked(*forward, *backward), "forward") == {
        "linear": None,
        "addmm": None,
        "AddmmBackward0": "addmm",
        "mm": None,
    }


def test_of_several_forward_threads_it_is_the_one_with_the_most_numbers():
    one = [
        row(f"one{number}", number * 10, number * 10 + 5, "x", sequence=number, forward_thread=0) for number in range(5)
    ]
    two = [
        row(f"two{number}", number * 10, number * 10 + 5, "y", sequence=number, forward_thread=0)
        for number in range(3, 9)
    ]
    back = [
        row(f"back{number}", 200 + number, 201 + number, "z", sequence=number, forward_thread=1) for number in range(5)
    ]

    found = by_name(linked(*one, *two, *back), "forward")

    assert {name: found[name] for name in found if name.startswith("back")} == {f"back{n}": f"one{n}" for n in range(5)}


def test_layers_are_the_innermost_marks_around():
    marks = row("encoder", 0, 50, category="layer"), row("encoder.0", 10, 30, category="layer")

    assert layers(*marks, row("a", 5, 8), row("b", 12, 20), row("c", 13, 14), row("d", 60, 70)) == {
        "encoder": "encoder", "encoder.0": "encoder.0", "a": "encoder", "b": "encoder.0", "c": "encoder.0", "d": None,
    }  # fmt: skip


def test_backward_operations_and_kernels_have_the_layer_of_what_they_belong_to():
    forward = row("fc", 0, 10, category="layer"), row("addmm", 2, 8, sequence=4, forward_thread=0, operation=11)
    backward = row("Backward", 20, 30, "t", sequence=4, forward_thread=1), row("mm", 22, 25, "t", operation=12)
    kernels = kernel("forward_gemm", 40, 41, operation=11), kernel("backward_gemm", 41, 42, operation=12)

    found = layers(*forward, *backward, *kernels)

    assert {name: found[name] for name in ("mm", "forward_gemm", "backward_gemm")} == dict.fromkeys(
        ("mm", "forward_gemm", "backward_gemm"), "fc"
    )


def test_without_marks_the_modules_of_a_python_trace_are_layers():
    def python(name, start, end):
        return row(name, start, end, category="python_function")

    found = layers(
        python("train.py(3): main", 0, 100),
        python("nn.Module: Net_0", 10, 90),
        python("torch/nn/modules/module.py(1): _call_impl", 12, 80),
        python("nn.Module: Linear_2", 20, 60),
        row("addmm", 30, 40),
        row("relu", 70, 75),
    )

    assert (found["addmm"], found["relu"]) == ("Net_0.Linear_2", "Net_0")


def test_a_layer_that_the_source_gives_is_kept_and_handed_down():
    assert layers(row("a", 0, 10, layer="dense"), row("b", 2, 4), row("c", 20, 30)) == {
        "a": "dense",
        "b": "dense",
        "c": None,
    }
