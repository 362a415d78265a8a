import builtins
import random
import sys
from types import ModuleType

import numpy as np
import pytest

import dnnamo.frameworks as frameworks
from dnnamo.runner.seeds import seeding


@pytest.fixture(autouse=True)
def state():
    """The generators of this process as they were."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    yield
    random.setstate(of_python)
    np.random.set_state(of_numpy)


@pytest.fixture
def seeds(monkeypatch, tmp_path):
    """The seeds that a framework was given; its package is a file that draws numbers while it is imported."""
    given = []
    plug_in = ModuleType("given_framework")
    plug_in.seed = given.append
    (tmp_path / "given_library.py").write_text("import random\nrandom.random()\n")
    monkeypatch.setattr(frameworks, "_BUILT_IN", {"given_library": "given_framework"})
    monkeypatch.setitem(sys.modules, "given_framework", plug_in)
    monkeypatch.syspath_prepend(tmp_path)
    yield given
    sys.modules.pop("given_library", None)


def drawn() -> tuple[float, float]:
    return random.random(), float(np.random.random())


def test_the_same_seed_gives_the_same_numbers_and_another_others(seeds):
    with seeding(1):
        first = drawn()
    with seeding(1):
        assert drawn() == first
    with seeding(2):
        assert drawn() != first


def test_without_a_seed_numbers_go_on(seeds):
    random.seed(5)
    expected = [random.random() for _ in range(2)]
    random.seed(5)
    random.random()
    with seeding(None):
        assert random.random() == expected[1]
    assert seeds == []


def test_a_framework_in_use_is_seeded(seeds):
    import given_library  # noqa: F401

    with seeding(3):
        assert seeds == [3]


def test_a_framework_that_is_imported_later_is_seeded_then_and_what_it_drew_is_undone(seeds):
    with seeding(3):
        first = drawn()
    with seeding(3):
        assert seeds == []
        import given_library  # noqa: F401

        assert seeds == [3]
        assert drawn() == first


def test_a_framework_is_not_touched_before_all_of_it_is_there(seeds, tmp_path, monkeypatch):
    (tmp_path / "given_library.py").write_text("import json\nassert not seeds")
    (tmp_path / "given_needs.py").write_text("import given_library\nimport json\nassert not seeds")
    monkeypatch.setitem(frameworks.PRELOADS, "given_library", frameworks.Preload(("given_needs",), forks=True))
    monkeypatch.setattr(builtins, "seeds", seeds, raising=False)
    with seeding(3):
        import given_needs

        assert seeds == [3]
    del sys.modules[given_needs.__name__]


def test_importing_is_left_as_it_was(seeds):
    plain = builtins.__import__
    with pytest.raises(ZeroDivisionError), seeding(3):
        _ = 1 / 0

    assert builtins.__import__ is plain


def test_a_framework_that_is_imported_by_its_plug_in_is_seeded_once_both_are_there(seeds, monkeypatch, tmp_path):
    (tmp_path / "given_framework.py").write_text("import random\nimport given_library\n\nseed = given_library.given\n")
    (tmp_path / "given_library.py").write_text("import random\nrandom.random()\n\ndef given(number): pass\n")
    monkeypatch.delitem(sys.modules, "given_framework")
    with seeding(3):
        first = drawn()
    with seeding(3):
        import given_framework

        assert drawn() == first
        assert callable(given_framework.seed)
    sys.modules.pop("given_framework")


def test_after_the_block_an_import_seeds_nothing(seeds):
    with seeding(3):
        pass
    import given_library  # noqa: F401

    assert seeds == []


def test_a_framework_that_fails_to_import_shows_its_error(seeds, tmp_path):
    (tmp_path / "given_library.py").write_text("1 / 0")

    with seeding(3), pytest.raises(ZeroDivisionError):
        import given_library  # noqa: F401
    assert seeds == []
