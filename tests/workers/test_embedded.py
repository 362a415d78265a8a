from collections.abc import Iterator

import pytest

from dnnamo.client import JobHandle, Session
from dnnamo.errors import DatabaseUnavailable
from dnnamo.records import JobSpec
from dnnamo.settings import Settings
from dnnamo_storage import Store
from dnnamo_workers import embedded

MODEL = """
class Given:
    def run_inference(self, n_steps=1):
        return [0.5] * n_steps

def __dnnamo_loader__():
    return Given()
"""


@pytest.fixture
def session(tmp_path) -> Iterator[Session]:
    found = Session(Settings(home=tmp_path, database_url=f"sqlite:///{tmp_path / 'dnnamo.db'}"))
    yield found
    found.store.close()


@pytest.fixture
def spec(tmp_path) -> JobSpec:
    path = tmp_path / "given_model.py"
    path.write_text(MODEL)
    return JobSpec(model=str(path), method="run_inference", n_steps=2, warmup=0)


def test_submitted_jobs_run_here_one_after_the_other(session, spec):
    first, second = session.submit(spec), session.submit(spec)

    assert second.wait(60).state == "succeeded"
    assert first.state == "succeeded"
    assert first.record.ended <= second.record.started
    assert first.record.attempts[0].worker.endswith(":embedded")


def test_what_keeps_an_outcome_from_being_recorded_reaches_whoever_waits(session, spec, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("the disk is full")

    monkeypatch.setattr(embedded, "supervise", fail)

    with pytest.raises(DatabaseUnavailable, match="the disk is full"):
        session.submit(spec).wait(60)


def test_a_job_that_another_process_left_queued_is_run_by_whoever_waits(session, spec):
    with Store.open(str(session.store.engine.url)) as other:
        job_id = other.submit(spec)

    assert JobHandle(job_id, session).wait(60).state == "succeeded"
