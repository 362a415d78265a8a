import json
import socket
from collections.abc import Iterator

import pytest
import redis

from dnnamo.errors import BrokerUnavailable
from dnnamo.records import JobSpec
from dnnamo_storage import Store
from dnnamo_workers.app import check_broker, make_app
from dnnamo_workers.dispatch import dispatch
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


def test_as_many_hints_wait_as_jobs_are_queued(store, app, broker):
    submit(store, 3)

    assert dispatch(store, app, "cpu") == 3
    assert dispatch(store, app, "cpu") == 0
    assert broker.llen("dnnamo.cpu") == 3


def test_a_hint_holds_the_device_class_and_nothing_else(store, app, broker):
    submit(store, 1)
    dispatch(store, app, "cpu")

    message = json.loads(broker.lindex("dnnamo.cpu", 0))

    assert message["headers"]["task"] == "dnnamo.work"
    assert message["content-type"] == "application/json"
    assert message["headers"]["argsrepr"] == "['cpu']"


def test_a_sweep_makes_few_hints_and_more_slots_make_more(store, app, broker):
    submit(store, 50)

    assert dispatch(store, app, "cpu") == 4
    store.report_worker("one", queues=["cpu"], slots=5)
    store.report_worker("other", queues=["gpu"], slots=100)
    assert dispatch(store, app, "cpu") == 6
    assert broker.llen("dnnamo.cpu") == 10


def test_nothing_is_hinted_at_when_nothing_is_queued(store, app, broker):
    submit(store, 1)

    assert dispatch(store, app, "gpu") == 0
    assert broker.keys("dnnamo.*") == []


def test_hints_that_the_broker_lost_come_back(store, app, broker):
    submit(store, 2)
    dispatch(store, app, "cpu")
    broker.flushdb()

    assert dispatch(store, app, "cpu") == 2


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
