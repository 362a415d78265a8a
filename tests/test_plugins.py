from importlib.metadata import EntryPoint

import pytest

from dnnamo import plugins


@pytest.fixture
def looked_up(monkeypatch) -> list[str]:
    """The groups that were looked up among installed packages, in which one plug-in is found."""
    groups = []

    def entry_points(group):
        groups.append(group)
        return [EntryPoint(name="given", value="package.module", group=group)]

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    plugins.installed.cache_clear()
    yield groups
    plugins.installed.cache_clear()


def test_plugins_are_names_and_import_paths(looked_up):
    assert plugins.installed("dnnamo.loaders") == {"given": "package.module"}


def test_installed_packages_are_looked_through_once(looked_up):
    plugins.installed("dnnamo.loaders")
    plugins.installed("dnnamo.loaders")

    assert looked_up == ["dnnamo.loaders"]
