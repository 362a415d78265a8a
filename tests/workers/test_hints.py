import base64
import json
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from dnnamo_workers.app import TASK, make_app, serve
from dnnamo_workers.gate import Gate
from dnnamo_workers.hints import LIFETIME_S, sign, verify

KEY = bytes(range(32))
NOW = 1_800_000_000.0
PATIENCE_S = 60


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_hint_says_what_was_signed_until_it_expires(device):
    hint = sign(device, KEY, now=NOW)

    assert verify(hint, KEY, now=NOW) == device
    assert verify(hint, KEY, now=NOW + LIFETIME_S - 1) == device
    assert verify(hint, KEY, now=NOW + LIFETIME_S) is None


def test_a_hint_of_a_clock_that_is_a_little_ahead_is_good_and_of_the_far_future_is_not():
    assert verify(sign("cpu", KEY, now=NOW + 30), KEY, now=NOW) == "cpu"
    assert verify(sign("cpu", KEY, now=NOW + 3600), KEY, now=NOW) is None


def test_a_hint_of_another_database_is_none():
    assert verify(sign("cpu", bytes(32), now=NOW), KEY, now=NOW) is None


def test_no_byte_of_a_hint_may_change():
    hint = sign("cpu", KEY, now=NOW)
    changed = [hint[:at] + bytes([hint[at] ^ bit]) + hint[at + 1 :] for at in range(len(hint)) for bit in (1, 2, 32)]
    other = [
        hint.replace(b"cpu", b"gpu"),
        hint + b"\n",
        b" " + hint,
        hint[:-1],
        hint + b" more",
        hint.upper(),
        hint * 2,
    ]

    assert [text for text in changed + other if verify(text, KEY, now=NOW) is not None] == []


def test_a_device_class_that_there_is_not_is_none_though_it_is_signed():
    assert verify(sign("tpu", KEY, now=NOW), KEY, now=NOW) is None  # type: ignore[arg-type]


def _any_json(chance: random.Random, depth: int = 0) -> Any:
    leaf = chance.choice([None, True, 0, -1, 1e308, 10**400, "", "cpu", "cpu 1 ", "\udcff", "\0", chance.random()])
    if depth > 4 or chance.random() < 0.5:
        return leaf
    items = [_any_json(chance, depth + 1) for _ in range(chance.randrange(4))]
    return items if chance.random() < 0.5 else {str(item)[:9]: item for item in items}


def test_whatever_is_no_hint_is_none():
    chance = random.Random(3)
    hint = sign("cpu", KEY, now=NOW)
    values = [_any_json(chance) for _ in range(5000)] + [chance.randbytes(chance.randrange(200)) for _ in range(5000)]
    values += [json.dumps(value).encode() for value in values[:1000]] + [hint.decode(), [hint], {"hint": hint}, ...]
    values += [b"cpu " + b"9" * size + b" " + b"0" * 64 for size in (1, 12, 13, 10_000)]

    assert [value for value in values if verify(value, KEY, now=NOW) is not None] == []


def test_a_hint_in_another_queue_than_its_own_is_dropped():
    gate = Gate(TASK, KEY, {"cpu": "c", "gpu": "g"})
    hint = sign("gpu", KEY, now=time.time())

    assert gate.admit("c", hint) is None
    assert gate.admit("g", hint) is not None


def test_a_message_says_no_more_than_what_to_call_with_what():
    made = json.loads(Gate(TASK, KEY, {"cpu": "c"}).admit("c", sign("cpu", KEY, now=time.time())) or b"")

    assert made["headers"].keys() == {"task", "id"}
    assert json.loads(made["body"]) == [["cpu"], {}, {}]


WORKER = """
import logging, sys, redis
from celery import signals
from dnnamo_workers.app import make_app, serve
logging.basicConfig(level=logging.WARNING)
signals.setup_logging.connect(lambda **_: None, weak=False)
broker = redis.Redis.from_url(sys.argv[1])
app = make_app(sys.argv[1])
def note(device):
    broker.rpush("heard", device)
serve(app, ["cpu", "gpu"], note, key=bytes.fromhex(sys.argv[2]))
signals.worker_ready.connect(lambda **_: broker.rpush("tasks", *app.tasks), weak=False)
app.Worker(pool="threads", concurrency=1, loglevel="WARNING", quiet=True, without_gossip=True, without_mingle=True,
           without_heartbeat=True).start()
"""
"""A Celery worker as `dnnamo worker` makes it, that notes in Redis what its task was called with."""


class Worker:
    """A running worker, and its broker as somebody sees it who can write there."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.broker = redis.Redis.from_url(url)
        self.broker.flushdb()
        self._log = log
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", WORKER, url, KEY.hex()], stdout=output, stderr=output
            )
        self.until(lambda: self.noted("tasks") != [])
        self.tasks = self.noted("tasks")

    def until(self, is_true: Callable[[], bool]) -> None:
        """Wait for something that the worker does."""
        deadline = time.monotonic() + PATIENCE_S
        while not is_true():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)

    def noted(self, name: str) -> list[str]:
        return [text.decode() for text in self.broker.lrange(name, 0, -1)]

    def hears(self, *items: bytes) -> list[str]:
        """Put items into its queue for CPUs, have it take them, then a hint for GPUs; return what its task was given.

        It has one slot, so no call for what it took before is still to come.
        """
        self.broker.delete("heard")
        for item in items:
            self.broker.lpush("dnnamo.cpu", item)
        self.until(lambda: not self.broker.exists("dnnamo.cpu"))
        self.broker.lpush("dnnamo.gpu", sign("gpu", KEY, now=time.time()))
        self.until(lambda: "gpu" in self.noted("heard"))
        return self.noted("heard")

    @property
    def log(self) -> str:
        return self._log.read_text()

    def keys(self) -> set[str]:
        """What lies in Redis, but for Celery's notes of which queues there are."""
        return {name.decode() for name in self.broker.scan_iter() if not name.startswith(b"_kombu.")}

    def close(self) -> None:
        self._process.terminate()
        assert self._process.wait(PATIENCE_S) == 0, self.log
        self.broker.close()


@pytest.fixture(scope="module")
def worker(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    running = Worker(redis_url.replace("/0", "/8"), tmp_path_factory.mktemp("hints") / "worker.log")
    yield running
    running.close()


def message(args: Any = ("cpu",), *, task: str = TASK, embed: Any = None, **headers: Any) -> dict[str, Any]:
    """A Celery message, as complete as Celery would write it."""
    properties = {"delivery_tag": "tag", "delivery_info": {"exchange": "", "routing_key": "dnnamo.cpu"}}
    return {
        "body": base64.b64encode(json.dumps([args, {}, embed or {}]).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "task": task, "id": "forged", **headers},
        "properties": {**properties, "body_encoding": "base64", "reply_to": "leak", "correlation_id": "forged"},
    }


def pickled() -> str:
    return base64.b64encode(pickle.dumps(print)).decode()


CALL = {"task": TASK, "args": ["cpu"], "kwargs": {}, "options": {"queue": "leak"}}

FORGED: dict[str, Any] = {
    "no JSON": b"\xff\xfe{",
    "empty": b"",
    "null": None,
    "list": [],
    "no properties": {"body": "x", "headers": {}},
    "Celery's message for the task": message(),
    "unknown task": message(task="os.system"),
    "chain task": message([[CALL]], task="celery.chain"),
    "task that is no text": message(task=["cpu"]),  # type: ignore[arg-type]
    "eta": message(eta="2099-01-01T00:00:00"),
    "wrong eta": message(eta={"a": 1}),
    "expires": message(expires="1999-01-01T00:00:00"),
    "callbacks": message(embed={"callbacks": [CALL], "errbacks": [CALL], "chain": [CALL], "chord": CALL}),
    "time limits": message(timelimit=[0.001, 0.001], retries=-1),
    "hint as an argument": message([sign("cpu", KEY, now=time.time()).decode()]),
    "pickle": message() | {"body": pickled(), "content-type": "application/x-python-serialize"},
    "yaml": message() | {"content-type": "application/x-yaml"},
    "compressed": message(compression="application/x-gzip"),
    "type hook": {"__type__": "decimal", "__value__": "x"},
    "deep": b"[" * 200_000,
    "giant": b"[" + b"0," * 8_000_000 + b"0]",
    "protocol 1": message() | {"headers": {}, "body": base64.b64encode(json.dumps(CALL).encode()).decode()},
    "expired hint": sign("cpu", KEY, now=0),
    "hint of another database": sign("cpu", bytes(32), now=time.time()),
}


def wire(forged: Any) -> bytes:
    return forged if isinstance(forged, bytes) else json.dumps(forged).encode()


def test_one_task_is_registered_and_none_of_celerys(worker):
    assert worker.tasks == [TASK]


def ignore(device: str) -> None:
    """A task."""


def test_nothing_adds_a_task_again(redis_url):
    with make_app(redis_url) as app, make_app(redis_url) as other:
        serve(app, ["cpu"], ignore, key=KEY)
        other.finalize()
        app.finalize()
        app.loader.import_default_modules()

        assert list(app.tasks) == [TASK]
        assert TASK not in other.tasks


@pytest.mark.parametrize("kind", FORGED)
def test_what_is_no_hint_calls_nothing_keeps_nothing_and_ends_nothing(worker, kind):
    assert worker.hears(wire(FORGED[kind])) == ["gpu"]
    assert worker.keys() == {"tasks", "heard"}


def test_a_hint_calls_the_task_with_its_device_class(worker):
    assert worker.hears(*[sign("cpu", KEY, now=time.time())] * 3) == ["cpu", "cpu", "cpu", "gpu"]


def test_a_flood_is_told_of_in_one_line(worker):
    before = len(worker.log.splitlines())

    assert worker.hears(*[wire(FORGED["unknown task"])] * 1000) == ["gpu"]
    assert len(worker.log.splitlines()) - before <= 1


def test_what_is_dropped_is_told_of_without_its_content(worker):
    worker.hears(b"sesame")

    assert "no hints of this database" in worker.log
    assert "sesame" not in worker.log
    assert KEY.hex() not in worker.log


def test_queues_of_priorities_and_kept_messages_are_not_read(worker):
    worker.broker.lpush("dnnamo.cpu\x06\x169", wire(message()))
    worker.broker.hset("unacked", "tag", json.dumps([message(), "", "dnnamo.cpu"]))
    worker.broker.zadd("unacked_index", {"tag": 0})

    assert worker.hears() == ["gpu"]
    assert worker.keys() == {"tasks", "heard", "dnnamo.cpu\x06\x169", "unacked", "unacked_index"}
    worker.broker.delete("dnnamo.cpu\x06\x169", "unacked", "unacked_index")


def test_something_else_under_the_name_of_the_queue_ends_no_worker(worker):
    worker.broker.set("dnnamo.cpu", "no list")
    worker.until(lambda: "ResponseError" in worker.log)
    worker.broker.delete("dnnamo.cpu")

    assert worker.hears() == ["gpu"]
