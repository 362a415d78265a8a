"""Redis goes away, hangs, comes back empty, repeats itself and lies."""

import json
import pickle
import random
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from dnnamo_workers.app import make_app, queue_name
from dnnamo_workers.dispatch import dispatch
from dnnamo_workers.hints import sign
from tests.chaos.bars import Row, at_length, sized
from tests.chaos.cluster import PATIENCE_S, Cluster
from tests.chaos.processes import until
from tests.chaos.proxy import Proxy
from tests.chaos.servers import Postgres, Redis

QUEUE = queue_name("cpu")
BAR = "0 lost, consuming again within 60 s without a restart"


def take_hints_until_all_did(cluster: Cluster, broker: Redis, since: float) -> float:
    """Publish hints, with nothing queued, until every worker has looked for a job; return how long that took.

    A worker that nobody hints at looks only if there is a queued job. So one that looks now has taken a hint.
    """

    def all_looked() -> bool:
        broker.client.lpush(QUEUE, sign("cpu", cluster.store.hint_key(), now=time.time()))
        time.sleep(0.2)
        looked = [worker.polled.timestamp() for worker in cluster.store.workers()]
        return len(looked) == len(cluster.workers) and min(looked) > since

    until(all_looked, within_s=2 * PATIENCE_S, otherwise="not all workers take hints")
    return time.time() - since


def consume_again(cluster: Cluster, broker: Redis, healed: float) -> tuple[float, float]:
    """Return how long after the healing a new job began, and all workers took hints."""
    began = cluster.wait_until_began(cluster.submit(), within_s=2 * PATIENCE_S) - healed
    cluster.wait_for_all(within_s=PATIENCE_S)
    return began, take_hints_until_all_did(cluster, broker, healed)


def judge(cluster: Cluster, line: Row, pids: list[int], began: float, hinted: float) -> None:
    broken = cluster.violations()
    jobs = cluster.history().jobs
    done = sum(job.state == "succeeded" for job in jobs)
    line.measured = (
        f"{done} of {len(jobs)} jobs done; next job began after {began:.1f} s, "
        f"all workers took hints after {hinted:.1f} s; {len(broken)} violations"
    )
    assert broken == []
    assert {job.state for job in jobs} == {"succeeded"}
    assert cluster.pids == pids
    assert max(began, hinted) < 60


@sized("jobs, away_s", small=[20, 1], full=[500, 20], minutes=10)
def test_redis_that_comes_back_empty_loses_nothing(
    cluster: Cluster, broker: Redis, row: Callable[[str, str], Row], jobs: int, away_s: float
) -> None:
    line = row(f"Redis flushed, then killed for {away_s:g} s and restarted, in the middle of {jobs} jobs", BAR)
    pids = [worker.pid for worker in cluster.start_workers(2)]
    numbers = [cluster.submit("work", 0.05) for _ in range(jobs)]
    cluster.wait_until_began(numbers[jobs // 4])
    broker.client.flushall()
    cluster.wait_until_began(numbers[jobs // 2])
    broker.kill()
    time.sleep(away_s)
    broker.start()
    healed = time.time()
    judge(cluster, line, pids, *consume_again(cluster, broker, healed))


@contextmanager
def cut(proxy: Proxy) -> Iterator[None]:
    proxy.cut()
    yield
    proxy.heal()


@contextmanager
def half_open(proxy: Proxy) -> Iterator[None]:
    proxy.stall()
    yield
    proxy.heal()


@contextmanager
def delayed(proxy: Proxy) -> Iterator[None]:
    proxy.delay(2)
    yield
    proxy.heal()


@pytest.mark.parametrize(
    ("disturb", "lasts_s"),
    [
        pytest.param(cut, 45, id="cut", marks=at_length(5)),
        pytest.param(delayed, 45, id="delayed", marks=at_length(5)),
        pytest.param(half_open, 10, id="half_open-short", marks=at_length(5)),
        pytest.param(half_open, 45, id="half_open-long", marks=at_length(5)),
    ],
)
def test_disturbed_connections_to_redis_lose_nothing(
    folder: Path,
    postgres: Postgres,
    broker: Redis,
    row: Callable[[str, str], Row],
    disturb: Callable[[Proxy], AbstractContextManager[None]],
    lasts_s: float,
) -> None:
    line = row(f"connections to Redis {disturb.__name__.replace('_', '-')} for {lasts_s:g} s, between jobs", BAR)
    with (
        Proxy(broker.port) as proxy,
        Cluster(folder, postgres.url, f"redis://127.0.0.1:{proxy.port}/0") as cluster,
    ):
        pids = [worker.pid for worker in cluster.start_workers(2)]
        cluster.wait(*[cluster.submit("work", 0.05) for _ in range(10)])
        with disturb(proxy):
            for _ in range(10):
                cluster.submit("work", 0.05, hinted=False)
            time.sleep(lasts_s)
        healed = time.time()
        judge(cluster, line, pids, *consume_again(cluster, broker, healed))


class Liar(threading.Thread):
    """Delivers every hint that it finds five times and out of order, and invents others.

    Args:
        broker: The server.
        canary: File that appears if anything of what is invented gets executed.
    """

    def __init__(self, broker: Redis, canary: Path) -> None:
        super().__init__(name="liar")
        self.copied = 0
        self.forged = 0
        self._client = broker.client
        self._canary = canary
        self._seen: set[bytes] = set()
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.02):
            try:
                self._lie()
            except redis.ResponseError:  # its own doing: there is no list under the queue's name
                self._client.delete(QUEUE)

    def _lie(self) -> None:
        found = self._client.lrange(QUEUE, 0, -1)
        forged = forgeries(self._canary)
        self._seen.update(item for item in found if item.startswith(b"cpu ") and item not in forged)
        copies = [*self._seen] * 4
        items = [*found, *copies, *random.sample(forged, 4)]
        random.shuffle(items)
        self._client.ltrim(QUEUE, 1, 0)
        self._client.lpush(QUEUE, *items)
        self.copied += len(copies)
        self.forged += 4
        if random.random() < 0.02:
            self._client.set(QUEUE, "no list")
        if random.random() < 0.02:
            self._client.lpush(QUEUE, b"x" * (8 << 20))

    def stop(self) -> None:
        self._over.set()
        self.join()


class Payload:
    """Executes something where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self._canary,)


def forgeries(canary: Path) -> list[bytes]:
    """Return what somebody who can write to the broker, and has no key, could put there."""
    touch = f"touch {canary}"
    evil = pickle.dumps(Payload(canary))
    as_pickle = {"content_type": "application/x-python-serialize", "body": b64encode(evil).decode()}
    call = {"task": "os.system", "args": [touch], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": True}
    soon = int(time.time()) + 60
    return [
        message("os.system", [touch]),
        message("subprocess.run", [["touch", str(canary)]]),
        message("dnnamo.work", ["cpu"]),
        message(
            "dnnamo.work", ["cpu"], embed={"callbacks": [call], "errbacks": [call], "chain": [call], "chord": None}
        ),
        message("dnnamo.work", ["cpu"], eta=datetime.now(UTC).isoformat(), retries=3),
        message("celery.map", [call, [[touch]]]),
        message("celery.chain", [], embed={"callbacks": None, "errbacks": None, "chain": [call], "chord": None}),
        message("celery.backend_cleanup", []),
        message("dnnamo.work", [], **as_pickle),
        message("dnnamo.work", [], content_type="application/x-yaml", body="!!python/object/apply:os.system ['true']"),
        evil,
        b"cpu",
        f"cpu {soon} ".encode() + b"0" * 64,
        sign("cpu", b"some other key", now=time.time()),
        sign("cpu", b"", now=time.time()),
        b"{}",
        b"[]",
        b"\xff\x00\xfe",
        b"",
    ]


def message(
    task: str, args: list[object], *, content_type: str = "application/json", body: str | None = None, **more: object
) -> bytes:
    """Return a message of Celery's protocol 2, as its own clients put it into a list of Redis."""
    tag = str(uuid.uuid4())
    embed = more.pop("embed", {"callbacks": None, "errbacks": None, "chain": None, "chord": None})
    given = b64encode(json.dumps([args, {}, embed]).encode()).decode() if body is None else body
    return json.dumps(
        {
            "body": given,
            "content-encoding": "utf-8",
            "content-type": content_type,
            "headers": {"lang": "py", "task": task, "id": tag, "root_id": tag, "argsrepr": repr(args), **more},
            "properties": {
                "correlation_id": tag,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": QUEUE},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": tag,
            },
        }
    ).encode()


@sized("jobs", small=[20], full=[500], minutes=10)
def test_hints_repeated_reordered_and_forged_run_nothing_twice_and_nothing_else(
    cluster: Cluster, broker: Redis, row: Callable[[str, str], Row], jobs: int
) -> None:
    line = row(
        f"every hint of {jobs} jobs delivered 5 times and reordered, forged ones among them",
        "one recorded attempt per claim; nothing executed from a forged one",
    )
    canary = cluster.folder / "canary"
    pids = [worker.pid for worker in cluster.start_workers(2)]
    liar = Liar(broker, canary)
    liar.start()
    try:
        with closing(make_app(f"redis://127.0.0.1:{broker.port}/0")) as app:
            for _ in range(jobs):
                cluster.submit("work", 0.05)
                dispatch(cluster.store, app, "cpu")
            app.control.broadcast("shutdown")
            app.control.broadcast("pool_restart", arguments={"modules": ["antigravity"], "reload": True})
        cluster.wait_for_all(within_s=PATIENCE_S + jobs)
    finally:
        liar.stop()
    broker.client.delete(QUEUE)
    hinted = take_hints_until_all_did(cluster, broker, time.time())

    history, broken = cluster.history(), cluster.violations()
    line.measured = (
        f"{liar.copied} copies and {liar.forged} forgeries; {len(history.attempts)} attempts at {jobs} jobs; "
        f"{'something' if canary.exists() else 'nothing'} executed from forgeries; {len(broken)} violations; "
        f"all workers took hints {hinted:.1f} s later"
    )
    assert broken == []
    assert not canary.exists()
    assert [attempt.state for attempt in history.attempts] == ["succeeded"] * jobs
    assert cluster.pids == pids
