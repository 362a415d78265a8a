import json

from tests.cli.conftest import Said


def test_config_has_sizes_and_paths_as_people_write_them(store, monkeypatch):
    monkeypatch.setenv("DNNAMO_MEMORY_LIMIT", "1.5GiB")
    monkeypatch.setenv("DNNAMO_PYTHONS", "/opt/a/bin/python:/opt/b/bin/python")

    rows = {line.split()[0]: line.split()[1:] for line in Said.well("config").out.splitlines()}
    assert rows["memory_limit"] == ["1.50", "GiB", "DNNAMO_MEMORY_LIMIT"]
    assert rows["pythons"] == ["/opt/a/bin/python:/opt/b/bin/python", "DNNAMO_PYTHONS"]
    data = {row["setting"]: row["value"] for row in json.loads(Said.well("config", "-o", "json").out)}
    assert data["memory_limit"] == 1.5 * 2**30
    assert data["pythons"] == ["/opt/a/bin/python", "/opt/b/bin/python"]


def test_config_keeps_passwords_to_itself(store, monkeypatch):
    monkeypatch.setenv("DNNAMO_BROKER_URL", "redis://:s3cret@127.0.0.1:1/0")

    for form in ("table", "json", "csv"):
        assert "s3cret" not in Said.well("config", "-o", form).out
