import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from serving import segments
from serving.group_commit import GroupCommit
from serving.metrics import Metrics
from serving.prediction_log import Limits, PredictionLog, Unlogged
from tests.serving.stores import CuttableObjectStore
from tests.serving.test_prediction_log import INPUTS, answer


class Watched(PredictionLog):
    """A log that remembers its writes, and waits in each until it may go on."""

    def __init__(self, home: Path, durability: str) -> None:
        metrics = Metrics("tiny", "v1", CollectorRegistry()).log
        super().__init__(home, "tiny", "v1", INPUTS, CuttableObjectStore(), metrics, Limits(), durability, "refuse")  # type: ignore[arg-type]
        self.writes: list[int] = []
        self.fails: Exception | None = None

    def write(self, answers):
        if self.fails is not None:
            raise self.fails
        super().write(answers)
        self.writes.append(len(answers))

    def on_disk(self) -> list[str]:
        return [each.request_id for path in self._lease.segments() for each in segments.read(path).answers]


@pytest.fixture(params=["write", "fdatasync"])
def log(request, tmp_path):
    log = Watched(tmp_path, request.param)
    log.start()
    yield log
    log.close()


def test_an_answer_is_on_disk_when_its_wait_ends(log):
    async def ask() -> None:
        commits = GroupCommit(log)
        for name in ("a", "b"):
            await commits.commit([answer(name)])
            assert name in log.on_disk()

    asyncio.run(ask())


def test_what_has_queued_is_written_at_once(log):
    async def ask() -> None:
        commits = GroupCommit(log)
        await asyncio.gather(*(commits.commit([answer()]) for _ in range(50)))
        await asyncio.gather(*(commits.commit([answer()]) for _ in range(20)))

    asyncio.run(ask())
    assert log.writes == [50, 20]


def test_while_one_write_waits_for_the_disk_the_next_group_gathers(tmp_path):
    log = Watched(tmp_path, "fdatasync")
    log.start()

    async def ask() -> None:
        commits = GroupCommit(log)
        with log._lock:  # the disk is slow
            first = asyncio.create_task(commits.commit([answer()]))
            await asyncio.sleep(0.05)
            rest = [asyncio.create_task(commits.commit([answer()])) for _ in range(30)]
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in (first, *rest))
        await asyncio.gather(first, *rest)

    asyncio.run(ask())
    assert log.writes == [1, 30]
    log.close()


def test_who_gives_up_waiting_does_not_stop_those_beside_him(log):
    async def ask() -> None:
        commits = GroupCommit(log)
        impatient, patient = (asyncio.create_task(commits.commit([answer()])) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        await patient
        assert impatient.cancelled() or await asyncio.wait([impatient], timeout=1)
        with pytest.raises(asyncio.CancelledError):
            await impatient

    asyncio.run(ask())
    assert log.writes == [2]


@pytest.mark.parametrize("error", [Unlogged("the disk is full"), ValueError("what nobody thought of")], ids=["full", "bug"])
def test_all_of_a_group_hear_that_it_was_not_logged_and_the_next_one_is(log, error):
    async def ask() -> list[object]:
        commits = GroupCommit(log)
        log.fails = error
        told = await asyncio.gather(*(commits.commit([answer()]) for _ in range(3)), return_exceptions=True)
        log.fails = None
        await commits.commit([answer()])
        return told

    told = asyncio.run(ask())
    assert [type(each) for each in told] == [Unlogged] * 3
    assert log.writes == [1]
