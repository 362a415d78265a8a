import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from dnnamo.errors import BrokerUnavailable
from dnnamo.records import JobSpec
from dnnamo_storage import Store
from dnnamo_workers.app import check_broker, make_app
from dnnamo_workers.dispatch import dispatch, hint_key
from dnnamo_workers.hinted import Hinted
from dnnamo_workers.hints import sign, verify
from tests.servers import free_port

CPU_JOB = JobSpec(model="demo:mlp", method="run_inference")


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'dnnamo.db'}") as opened:
        yield opened


@pytest.fixture
def broker(redis_url: str) -> Iterator[redis.Redis]:
    """A Redis database of its own, empty, as a client sees it."""
    with redis.Redis.from_url(redis_url.replace("/0", "/7")) as client:
        client.flushdb()
        yield client


@pytest.fixture
def app(redis_url: str, broker: redis.Redis):
    with make_app(redis_url.replace("/0", "/7")) as made:
        yield made


def submit(store: Store, count: int) -> None:
    for _ in range(count):
        store.submit(CPU_JOB)


def waiting(broker: redis.Redis, store: Store, queue: str = "dnnamo.cpu") -> list[str | None]:
    """What the hints of a queue say to a worker of this store."""
    return [verify(hint, store.hint_key(), now=time.time()) for hint in broker.lrange(queue, 0, -1)]


def test_as_many_hints_wait_as_jobs_are_queued(store, app, broker):
    submit(store, 3)

    assert dispatch(store, app, "cpu") == 3
    assert dispatch(store, app, "cpu") == 3
    assert waiting(broker, store) == ["cpu"] * 3


def test_a_hint_is_signed_with_the_key_of_its_database(store, app, broker, tmp_path):
    submit(store, 1)
    dispatch(store, app, "cpu")

    with Store.open(f"sqlite:///{tmp_path / 'other.db'}") as other:
        assert waiting(broker, other) == [None]


def test_the_key_is_read_once(store, app, broker, monkeypatch):
    asked = []
    key = store.hint_key()
    monkeypatch.setattr(store, "hint_key", lambda: asked.append(1) or key)

    assert {hint_key(store) for _ in range(3)} == {key}
    assert len(asked) == 1


def test_a_sweep_makes_few_hints_and_more_slots_make_more(store, app, broker):
    submit(store, 50)

    assert dispatch(store, app, "cpu") == 4
    store.report_worker("one", queues=["cpu"], slots=5)
    store.report_worker("other", queues=["gpu"], slots=100)
    assert dispatch(store, app, "cpu") == 10
    assert waiting(broker, store) == ["cpu"] * 10


def test_nothing_is_hinted_at_when_nothing_is_queued(store, app, broker):
    submit(store, 1)

    assert dispatch(store, app, "gpu") == 0
    assert broker.keys("dnnamo.*") == []


def test_hints_that_the_broker_lost_come_back(store, app, broker):
    submit(store, 2)
    dispatch(store, app, "cpu")
    broker.flushdb()

    assert dispatch(store, app, "cpu") == 2
    assert waiting(broker, store) == ["cpu"] * 2


def test_fresh_hints_take_the_place_of_expired_ones_and_of_whatever_else_is_there(store, app, broker):
    submit(store, 2)
    broker.lpush("dnnamo.cpu", sign("cpu", store.hint_key(), now=0), *[b"forged"] * 1000)
    dispatch(store, app, "cpu")
    assert waiting(broker, store) == ["cpu"] * 2

    broker.set("dnnamo.cpu", "no list")
    dispatch(store, app, "cpu")
    assert waiting(broker, store) == ["cpu"] * 2


def test_many_who_dispatch_at_once_make_no_more_hints_than_one(store, app, broker):
    submit(store, 3)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: dispatch(store, app, "cpu"), range(40)))

    assert waiting(broker, store) == ["cpu"] * 3


def test_many_jobs_are_announced_in_one_go_for_each_device_class(store, broker, redis_url, monkeypatch):
    jobs = [(store.submit(JobSpec(model="demo:mlp", method="run_inference", device=d)), d) for d in ["gpu", "cpu"] * 3]
    asked = []
    monkeypatch.setattr(
        store, "queued", lambda device, limit: asked.append(device) or Store.queued(store, device, limit)
    )

    Hinted(store, redis_url.replace("/0", "/7")).launch_many([job for job, _ in jobs], [device for _, device in jobs])

    assert sorted(asked) == ["cpu", "gpu"]
    assert waiting(broker, store) == ["cpu"] * 3
    assert waiting(broker, store, "dnnamo.gpu") == ["gpu"] * 3


def test_jobs_whose_hints_cannot_be_published_are_told_of_and_stay(store, caplog):
    submit(store, 3)
    gone = Hinted(store, f"redis://:sesame@127.0.0.1:{free_port()}/0")

    gone.launch(1, "cpu")
    gone.launch_many([1, 2, 3], ["cpu"] * 3)

    assert "job 1 is stored and queued, and starts once the broker is back" in caplog.messages[0]
    assert "3 jobs from 1 to 3 are stored and queued, and start once the broker is back" in caplog.messages[1]
    assert "sesame" not in caplog.text
    assert store.queued("cpu", limit=9) == 3


@pytest.mark.parametrize("use", [lambda store, app: check_broker(app), lambda store, app: dispatch(store, app, "cpu")])
def test_a_broker_that_is_gone_is_named_without_its_password(store, use):
    submit(store, 1)
    with make_app(f"redis://:sesame@127.0.0.1:{free_port()}/0") as gone, pytest.raises(BrokerUnavailable) as caught:
        use(store, gone)
    assert "does not answer" in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_a_broker_that_accepts_and_never_answers_is_given_up():
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        make_app(f"redis://127.0.0.1:{deaf.getsockname()[1]}/0") as app,
    ):
        app.conf.broker_transport_options = {**app.conf.broker_transport_options, "socket_timeout": 0.2}
        with pytest.raises(BrokerUnavailable, match="does not answer"):
            check_broker(app)
