"""Passwords and keys stay out of whatever is printed, logged or raised."""

import logging
import os
import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from dnnamo.errors import DnnamoError
from dnnamo.settings import Settings, load_settings, masked
from dnnamo_storage import Store, open_engine
from dnnamo_workers.app import check_broker, make_app
from dnnamo_workers.hinted import Hinted
from tests.acceptance.place import QUICK, Place
from tests.servers import free_port

SECRET = "sesame"

DATABASES = [
    "postgresql://user:sesame@127.0.0.1:{port}/d",
    "postgresql://user:%73esame@127.0.0.1:{port}/d",
    "postgresql://user:open%40sesame@127.0.0.1:{port}/d",
    "postgresql://user:open@sesame@127.0.0.1:{port}/d",
    "postgresql://user:open/sesame@127.0.0.1:{port}/d",
    "postgresql://user@127.0.0.1:{port}/d?password=sesame",
    "postgresql://127.0.0.1:{port}/d?user=u&password=open%20sesame",
    "postgresql://user@127.0.0.1:{port}/d?sslpassword=sesame",
    "postgresql://user:sesame@127.0.0.1:notaport/d",
    "postgresql://user:sesame@[127.0.0.1:{port}/d",
    "mysql://user:sesame@127.0.0.1:{port}/d",
    "user:sesame@127.0.0.1",
]
"""URLs with a password in every place where people put one; none leads to a server."""

BROKERS = [
    "redis://:sesame@127.0.0.1:{port}/0",
    "redis://user:sesame@127.0.0.1:{port}/0",
    "redis://:%73esame@127.0.0.1:{port}/0",
    "redis://:open@sesame@127.0.0.1:{port}/0",
    "redis://:open%2Fsesame@127.0.0.1:{port}/0",
    "redis://:open/sesame@127.0.0.1:{port}/0",
    "redis://:open?sesame@127.0.0.1:{port}/0",
    "redis://:open#sesame@127.0.0.1:{port}/0",
    "redis://127.0.0.1:{port}/0?password=sesame",
    "redis://127.0.0.1:{port}/0?username=u&password=open%20sesame",
    "rediss://:sesame@127.0.0.1:{port}/0",
    "redis+socket://:sesame@/absent.sock",
    "redis+socket:///absent.sock?password=sesame",
    "redis://:sesame@127.0.0.1:notaport/0",
    "amqp://guest:sesame@127.0.0.1:{port}//",
    "user:sesame@127.0.0.1",
]


def at(url: str) -> str:
    return url.format(port=free_port())


def raised(use: Callable[[], object]) -> str:
    """Return all that a traceback prints of what is raised, its causes and contexts included."""
    with pytest.raises(DnnamoError) as caught:
        use()
    return "".join(traceback.format_exception(caught.value)) + repr(caught.value)


@pytest.mark.parametrize("url", DATABASES + BROKERS)
def test_a_masked_url_holds_no_password(url):
    assert SECRET not in masked(at(url))


@pytest.mark.parametrize("url", DATABASES + BROKERS)
def test_settings_show_no_password(url):
    settings = Settings(database_url=at(url), broker_url=at(url))

    assert SECRET not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"


@pytest.mark.parametrize("text", ["database_url = ['sesame']", "broker_url = {sesame = 'sesame'}", "sesame"])
def test_settings_that_cannot_be_read_are_told_without_their_values(text, tmp_path, monkeypatch):
    monkeypatch.setenv("DNNAMO_HOME", str(tmp_path))
    for name in ("DNNAMO_DATABASE_URL", "DNNAMO_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config.toml").write_text(text)

    assert SECRET not in raised(load_settings)


@pytest.mark.parametrize("url", DATABASES)
def test_a_database_that_cannot_be_opened_is_told_without_its_password(url):
    pytest.importorskip("psycopg")

    assert SECRET not in raised(lambda: Store.open(at(url)))


@pytest.mark.parametrize("url", [*DATABASES[:3], *DATABASES[4:8]])
def test_an_engine_and_a_store_show_no_password(url):
    pytest.importorskip("psycopg")
    engine = open_engine(at(url))
    store = Store(engine)

    assert SECRET not in f"{engine!r} {store!r} {vars(store)} {store.url} {engine.url}"


@pytest.mark.parametrize("url", BROKERS)
def test_a_broker_that_cannot_be_used_is_told_without_its_password(url, caplog):
    caplog.set_level(logging.DEBUG)

    assert SECRET not in raised(lambda: check_broker(make_app(at(url))))
    assert SECRET not in caplog.text


@pytest.mark.parametrize("url", [url for url in BROKERS if "{port}" in url and url.startswith("redis")])
def test_the_submitting_side_of_a_broker_that_is_gone_shows_no_password(url, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with Store.open(f"sqlite:///{tmp_path / 'd.db'}") as store:
        backend = Hinted(store, at(url))

        assert SECRET not in raised(backend.check)
        assert SECRET not in f"{backend!r} {vars(backend)} {caplog.text}"


def test_a_password_that_the_server_refuses_is_not_told(postgres_url, redis_url, tmp_path, caplog):
    from sqlalchemy import make_url

    caplog.set_level(logging.DEBUG)
    wrong = make_url(postgres_url).set(username="nobody", password="open sesame", host="127.0.0.1", port=free_port())
    broker = redis_url.replace("redis://", "redis://nobody:open%20sesame@")

    assert SECRET not in raised(lambda: Store.open(wrong.render_as_string(hide_password=False)))
    assert SECRET not in raised(lambda: check_broker(make_app(broker)))
    assert SECRET not in caplog.text


COMMANDS = (["config"], ["doctor"], ["show", "1"], ["run", QUICK], ["worker"])


@pytest.mark.parametrize("database", [DATABASES[3], DATABASES[6]])
def test_no_command_tells_the_password_of_a_database(database, tmp_path):
    pytest.importorskip("psycopg")
    place = Place(tmp_path, database_url=at(database), broker_url="redis://:sesame@127.0.0.1:1/0")

    for words in COMMANDS:
        done = place.dnnamo(*words, code=None)
        assert SECRET not in done.stdout + done.stderr, words


@pytest.mark.parametrize("broker", [BROKERS[3], BROKERS[9]])
def test_no_command_tells_the_password_of_a_broker(broker, tmp_path):
    place = Place(tmp_path, broker_url=at(broker))

    for words in COMMANDS:
        done = place.dnnamo(*words, code=None)
        assert SECRET not in done.stdout + done.stderr, words


def hint_keys(database: Path) -> list[bytes]:
    with sqlite3.connect(database) as connection:
        return [
            bytes(value) for row in connection.execute("SELECT * FROM hint_keys") for value in row if _is_key(value)
        ]


def _is_key(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == 32


def test_no_command_tells_the_key_of_the_hints(tmp_path):
    place = Place(tmp_path)
    said = [place.dnnamo("run", QUICK, "--steps", 1)]
    said += [
        place.dnnamo(*words, code=None) for words in (["show", 1, "-o", "json"], ["config"], ["doctor"], ["logs", 1])
    ]
    (key,) = hint_keys(tmp_path / "dnnamo.db")

    printed = "".join(done.stdout + done.stderr for done in said)
    assert [form for form in (key.hex(), repr(key), repr(key)[2:-1]) if form in printed] == []
    assert key.hex() not in str(os.environ)


def test_a_store_and_an_app_show_no_key_of_the_hints(tmp_path):
    from dnnamo_workers.app import serve

    with Store.open(f"sqlite:///{tmp_path / 'd.db'}") as store, make_app("redis://127.0.0.1:1/0") as app:
        key = store.hint_key()
        serve(app, ["cpu"], test_a_masked_url_holds_no_password, key=key)

        shown = f"{store!r} {vars(store)} {app!r} {app.conf.humanize()} {app.conf.broker_transport_options}"
    assert [form for form in (key.hex(), repr(key), repr(key)[2:-1]) if form in shown] == []
