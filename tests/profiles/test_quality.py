import pytest

from dnnamo.profiles.build import profile_of
from dnnamo.profiles.flops import CountedOperation
from dnnamo.records import Evidence, Overhead
from tests.profiles.rows import kernel, profile, recording, row, step

CLEAN = step(0, 0, 100), row("a", 0, 90)


def judged(made, **facts):
    found, _ = profile_of(made, **facts)
    return found.verdict, found.reasons


def test_damage_of_the_file_is_bad():
    assert judged(recording(*CLEAN, damage=["The file ends within event 7."])) == (
        "bad",
        ["The file ends within event 7."],
    )


@pytest.mark.parametrize(("count", "verdict"), [(1, "degraded"), (5, "bad")])
def test_what_was_dropped_is_counted(count, verdict):
    many = [row("b", number, number + 1, "t") for number in range(200)]
    found = judged(recording(*CLEAN, *many, dropped={"events without a name": count}))

    assert found == (verdict, [f"{count} events without a name were left out."])


def test_what_a_source_cannot_tell_is_a_note_alone():
    found, _ = profile_of(recording(*CLEAN, header={"limits": ["It records no shapes."]}))

    assert (found.verdict, found.reasons, found.notes) == ("ok", [], ["It records no shapes."])


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([row("a", 0, 10)], "No step is marked"),
        ([step(0, 0, 100), row("a", 0, 49)], "Operations account for 49% of the steps' time (bound 50%)"),
        ([*CLEAN, step(0, 100, 110, "t")], "Several steps have the same number."),
        ([*CLEAN, row("b", 80, 95), row("c", 200, 210)], "1 operations ended after the one on the same thread"),
        (
            [*CLEAN, kernel("k", 50, 60), kernel("k", 60, 70, operation=4)],
            "2 of 2 kernels and copies belong to no operation",
        ),
    ],
)
def test_what_is_odd_about_the_events_is_a_doubt(rows, reason):
    found = profile(*rows)

    assert found.verdict == "degraded"
    assert [said[: len(reason)] for said in found.reasons] == [reason]


def test_a_step_of_which_a_device_did_the_work_needs_no_operations_on_the_host():
    rows = step(0, 0, 100), row("a", 0, 20, operation=1), kernel("k", 10, 90, operation=1)

    assert profile(*rows).verdict == "ok"


@pytest.mark.parametrize(("profiled", "said"), [(29.0, None), (31.0, "3.10 times"), (9.5, None), (8.0, "0.80 times")])
def test_profiling_that_changes_steps_too_much_is_a_doubt(profiled, said):
    found = profile(*CLEAN, overhead=Overhead(before_ns=[10], after_ns=[10], profiled_ns=profiled))

    assert [reason for reason in found.reasons if said and said in reason] == found.reasons
    assert found.verdict == ("degraded" if said else "ok")


def test_operations_without_a_count_are_named():
    def count(name, flops, calls):
        return CountedOperation(name=name, shapes=None, layer=None, calls=calls, flops=flops)

    few = [count("mm", 5, 95), count("sort", None, 5)]
    many = [count("mm", 5, 5), *(count(f"op{number}", None, number) for number in range(1, 8))]

    assert profile(*CLEAN, counted=few).reasons == []
    assert profile(*CLEAN, counted=many).reasons == [
        "Floating-point operations are known for 15% of the calls (bound 90%); "
        "not for op7, op6, op5, op4, op3 and 2 more."
    ]


def test_a_disturbed_machine_is_a_doubt():
    evidence = Evidence(wall_ns=1, cores=[0], own_cpu_ns=1, foreign_cpu_ns=0, reasons=["the cores were slowed down"])

    assert profile(*CLEAN, evidence=evidence).reasons == ["While it was taken, the cores were slowed down."]
