import os
from pathlib import Path

import pytest

from dnnamo.errors import UsageError
from dnnamo.settings import Settings, load_settings, masked, sources


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A data folder for the test alone, and no other setting in the environment."""
    for name in [name for name in os.environ if name.startswith("DNNAMO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DNNAMO_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def config(home) -> Path:
    return home / "config.toml"


def test_defaults_need_no_server(home):
    settings = load_settings()

    assert settings.home == home
    assert settings.database == f"sqlite:///{home}/dnnamo.db"
    assert settings.broker is None
    assert settings.drain_s == 20


def test_without_a_home_the_users_data_folder_is_it(monkeypatch, tmp_path):
    monkeypatch.delenv("DNNAMO_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    assert load_settings().home == tmp_path / "data" / "dnnamo"


def test_a_relative_home_is_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DNNAMO_HOME", "here")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.toml").write_text("drain_s = 3")

    settings = load_settings()

    assert settings.database == f"sqlite:///{tmp_path}/here/dnnamo.db"
    assert settings.drain_s == 3


def test_a_tilde_in_the_home_is_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DNNAMO_HOME", "~/given")

    assert load_settings().home == tmp_path / "given"


def test_the_file_comes_before_the_default_and_the_environment_before_the_file(config, monkeypatch):
    config.write_text('database_url = "sqlite:///file.db"\nbroker_url = "redis://file"\ndrain_s = 1')
    monkeypatch.setenv("DNNAMO_BROKER_URL", "redis://environment")

    settings = load_settings()

    assert settings.database == "sqlite:///file.db"
    assert settings.broker == "redis://environment"
    assert settings.drain_s == 1


def test_settings_are_read_afresh(monkeypatch):
    before = load_settings().drain_s
    monkeypatch.setenv("DNNAMO_DRAIN_S", "7")

    assert (before, load_settings().drain_s) == (20, 7)


def test_an_empty_variable_is_as_good_as_none(monkeypatch):
    monkeypatch.setenv("DNNAMO_BROKER_URL", "")
    monkeypatch.setenv("DNNAMO_DRAIN_S", "")

    assert load_settings().broker is None
    assert sources()["drain_s"] == "default"


def test_sources_say_where_each_value_comes_from(config, monkeypatch):
    config.write_text('broker_url = "redis://file"\ndrain_s = 1')
    monkeypatch.setenv("DNNAMO_DRAIN_S", "2")

    found = sources()
    assert list(found) == list(Settings.model_fields)
    assert {name: source for name, source in found.items() if source != "default"} == {
        "home": "DNNAMO_HOME",
        "broker_url": str(config),
        "drain_s": "DNNAMO_DRAIN_S",
    }


def test_a_job_is_limited_in_what_it_writes_and_in_nothing_that_takes_a_choice():
    settings = load_settings()

    assert (settings.output_limit, settings.scratch_limit, settings.process_limit) == (2**30, 10 * 2**30, 1000)
    assert (settings.memory_limit, settings.time_limit_s) == (None, None)
    assert (settings.pythons, settings.model_roots) == ((), ())


@pytest.mark.parametrize(
    ("text", "size"), [("8GiB", 8 * 2**30), ("500MB", 500_000_000), ("123", 123), ("1.5 KiB", 1536), ("1", 1)]
)
@pytest.mark.parametrize("name", ["memory_limit", "output_limit", "scratch_limit"])
def test_a_size_has_a_unit_or_is_in_bytes(name, text, size, monkeypatch):
    monkeypatch.setenv(f"DNNAMO_{name.upper()}", text)

    assert getattr(load_settings(), name) == size


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("memory_limit", "0", "greater than or equal to 1"),
        ("output_limit", "0 GB", "greater than or equal to 1"),
        ("scratch_limit", "-5GB", "write 2GiB, 500MB"),
        ("memory_limit", "5 parsecs", "write 2GiB, 500MB"),
        ("memory_limit", "inf", "write 2GiB, 500MB"),
        ("time_limit_s", "0", "greater than 0"),
        ("time_limit_s", "nan", "finite"),
        ("process_limit", "0", "greater than or equal to 1"),
        ("pythons", "bin/python:/usr/bin/python", "bin/python must be absolute"),
        ("model_roots", "models", "models must be absolute"),
        ("model_roots", "~absent-given-user/models", "must be absolute"),
        ("model_roots", ":", "no path in it"),
    ],
)
def test_a_limit_that_cannot_be_used_says_what_can(name, text, says, monkeypatch):
    monkeypatch.setenv(f"DNNAMO_{name.upper()}", text)

    with pytest.raises(UsageError) as caught:
        load_settings()
    assert f"Setting {name} (DNNAMO_{name.upper()} or config.toml) cannot be used: " in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["pythons", "model_roots"])
def test_paths_are_listed_as_in_path_or_in_toml(name, config, monkeypatch):
    monkeypatch.setenv("HOME", "/home/u")
    config.write_text(f'{name} = ["/from/file"]')
    assert getattr(load_settings(), name) == (Path("/from/file"),)

    monkeypatch.setenv(f"DNNAMO_{name.upper()}", "/a b/c::~/d")
    assert getattr(load_settings(), name) == (Path("/a b/c"), Path("/home/u/d"))


def test_one_path_of_a_list_in_the_file_is_named_by_its_setting(config):
    config.write_text('pythons = ["/usr/bin/python3", 3]')

    with pytest.raises(UsageError, match=r"Setting pythons \(DNNAMO_PYTHONS or config.toml\)"):
        load_settings()


@pytest.mark.parametrize("value", ["soon", "-1"])
def test_a_value_that_cannot_be_used_names_the_variable(value, monkeypatch):
    monkeypatch.setenv("DNNAMO_DRAIN_S", value)

    with pytest.raises(UsageError, match="drain_s .DNNAMO_DRAIN_S or config.toml. cannot be used"):
        load_settings()


def test_every_value_that_cannot_be_used_is_named(config, monkeypatch):
    monkeypatch.setenv("DNNAMO_DRAIN_S", "soon")
    config.write_text("broker_url = 3\nbrokerurl = 'redis://'")

    with pytest.raises(UsageError) as caught:
        load_settings()

    assert [name for name in ("drain_s", "broker_url", "brokerurl") if name not in str(caught.value)] == []


def test_a_file_that_is_no_toml_is_named(config):
    config.write_text("broker_url = redis://")

    with pytest.raises(UsageError, match="config.toml is not a TOML file that can be read"):
        load_settings()


def test_a_complaint_keeps_the_value_to_itself(config):
    config.write_text('database_url = ["postgresql://u:hunter2@h/d"]')

    with pytest.raises(UsageError, match="database_url") as caught:
        load_settings()

    assert "hunter2" not in str(caught.value)


def test_urls_are_not_shown_with_the_settings():
    settings = Settings(database_url="postgresql://u:hunter2@h/d", broker_url="redis://:hunter2@h")

    assert "hunter2" not in f"{settings} {settings!r} {settings.model_dump()}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:secret@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("postgresql+psycopg://user:se%40ret@host/db?sslmode=x", "postgresql+psycopg://user:***@host/db?sslmode=x"),
        ("redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("redis://:a@b:c@host/0", "redis://:***@host/0"),
        ("postgresql://user:se/cret@host/db", "postgresql://user:***@host/db"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://user@host:6379/0", "redis://user@host:6379/0"),
        ("sqlite:////data/a:b@c/dnnamo.db", "sqlite:////data/a:b@c/dnnamo.db"),
    ],
)
def test_a_password_in_a_url_is_masked_and_nothing_else(url, shown):
    assert masked(url) == shown
