"""Each program runs in a process of its own, as it takes modules out of `sys.modules`."""

import subprocess
import sys
from textwrap import dedent

import pytest

from dnnamo.runner.preload import can_fork


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", dedent(program)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


STATEMENTS = [
    "import torch",
    "import torch.nn.functional as F; import torch",
    "from torch import nn; import torch",
    "from torch.nn import Linear; import torch",
    "import dnnamo.frameworks.pytorch, torch",
    "from dnnamo.frameworks import pytorch; import torch",
    "from importlib import import_module; torch = import_module('torch')",
]


def test_a_framework_is_put_aside_and_comes_back_whole_with_the_first_import():
    program = f"""
    import os, sys
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    from importlib.util import find_spec
    from dnnamo.frameworks import in_use
    from dnnamo.runner.job import prepare
    prepare(["numpy", "torch", "something-else"])
    assert len(os.listdir("/proc/self/task")) == 1  # or it could not be forked
    assert find_spec("torch") is not None  # which does not bring it back
    assert not any(name.partition(".")[0] == "torch" for name in sys.modules)
    assert list(in_use()) == []
    for statement in {STATEMENTS!r}:
        if os.fork() == 0:
            exec(statement)
            assert torch is sys.modules["torch"] and torch.nn is sys.modules["torch.nn"], statement
            assert torch.__spec__.name == "torch" and torch.__spec__.submodule_search_locations, statement
            assert torch.nn.__spec__.loader is not None, statement
            assert len(list(in_use())) == 1, statement
            assert torch.nn.Linear(2, 3)(torch.ones(1, 2)).shape == (1, 3), statement
            os._exit(0)
        assert os.wait()[1] == 0, statement
    """
    run(program)


def test_what_makes_a_profile_is_imported_with_a_framework_and_works_in_copies_of_the_process():
    program = """
    import os, sys
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    from dnnamo.runner.job import prepare
    prepare(["torch"])
    before = set(sys.modules)
    for _ in range(2):
        if os.fork() == 0:
            import numpy as np
            from dnnamo.profiles.build import events_file, profile_of
            from dnnamo.profiles.events import Events, Texts
            from dnnamo.profiles.file import read_events
            from dnnamo.profiles.readers import read
            from dnnamo.profiles.recording import Recording
            names = Texts.of(["a", "b"])
            columns = {
                "name": names, "category": names, "process": names, "thread": names,
                "start_ns": np.arange(2), "duration_ns": np.arange(2),
            }
            recording = read(Recording(source="given", events=Events.of(columns, {})))
            file = events_file(recording, profile_of(recording)[1])
            assert not {"pandas", "pyarrow"} & {name.partition(".")[0] for name in set(sys.modules) - before}
            assert read_events(file)[0].name.to_list() == ["a", "b"]
            os._exit(0)
        assert os.wait()[1] == 0
    print(len(os.listdir("/proc/self/task")))
    """
    assert run(program) == "1"


def test_without_a_framework_nothing_of_it_is_imported():
    program = """
    import sys
    from dnnamo.runner.job import prepare
    prepare(["numpy"])
    print(sorted({"pyarrow", "pandas", "dnnamo.profiles.build"} & set(sys.modules)))
    """
    assert run(program) == "[]"


def test_what_is_no_framework_is_passed_over():
    assert run("from dnnamo.runner.preload import preload; preload('numpy'); preload('no-such-thing'); print(1)") == "1"


def test_a_framework_that_is_not_installed_is_left_to_the_model():
    program = """
    import sys
    from dnnamo import frameworks
    from dnnamo.runner import preload
    frameworks.PRELOADS["not_there"] = frameworks.Preload(modules=(), forks=True)
    preload.preload("not_there")
    try:
        import not_there
    except ModuleNotFoundError as error:
        print(error)
    """
    assert run(program) == "No module named 'not_there'"


def test_a_framework_that_fails_is_left_to_the_model_and_leaves_nothing(tmp_path):
    (tmp_path / "broken.py").write_text("import json, colorsys\nraise OSError('no such disk')")
    program = f"""
    import sys
    sys.path.insert(0, {str(tmp_path)!r})
    from dnnamo import frameworks
    from dnnamo.runner import preload
    frameworks.PRELOADS["broken"] = frameworks.Preload(modules=(), forks=True)
    frameworks._BUILT_IN["broken"] = "dnnamo.frameworks.broken"
    preload.preload("broken")
    assert not {{"broken", "colorsys"}} & set(sys.modules)
    try:
        import broken
    except OSError as error:
        print(error)
    """
    assert run(program) == "no such disk"


@pytest.mark.parametrize(
    ("packages", "forks"),
    [([], True), (["numpy", "torch"], True), (["tensorflow"], False), (["torch", "tensorflow"], False)],
)
def test_a_process_with_tensorflow_is_not_forked(packages, forks):
    assert can_fork(packages) is forks
