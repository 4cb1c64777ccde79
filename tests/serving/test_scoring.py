import asyncio
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.errors import BadData
from serving import runtime
from serving.limits import Overloaded
from serving.metrics import Tally
from serving.pace import Pace, is_row_wise, measure
from serving.scoring import ScoringQueue
from tests.serving.models import forest, network, tiny_model

JOINING = Pace(32, 256, 0.0, 1e-6, "")
APART = Pace(1, 256, 0.0, 1e-6, "")
FAR = 1e18


class Model:
    """A model that sums its inputs, and remembers the sizes it was asked with."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.sizes: list[int] = []
        self.threads: set[int] = set()
        self.seconds = seconds

    def __call__(self, matrix: np.ndarray) -> np.ndarray:
        self.sizes.append(len(matrix))
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        if (matrix > 1e6).any():
            raise BadData("no number")
        return matrix.sum(axis=1)


def rows(*values: float) -> np.ndarray:
    return np.array([[value, 0.0] for value in values], dtype=np.float32)


def ask(queue: ScoringQueue, *matrices: np.ndarray, deadline: float = FAR) -> list:
    async def together() -> list:
        return await asyncio.gather(*(queue.score(matrix, deadline) for matrix in matrices), return_exceptions=True)

    return asyncio.run(together())


def test_what_was_asked_in_one_turn_is_one_call_and_each_gets_its_own_rows():
    model, sizes = Model(), Tally((1, 8))
    answers = ask(ScoringQueue(model, JOINING, sizes), rows(1), rows(2, 3), rows(4))
    assert [answer.tolist() for answer in answers] == [[1], [2, 3], [4]]
    assert model.sizes == [4]
    assert sizes.buckets() == [("1.0", 0), ("8.0", 1), ("+Inf", 1)]


def test_a_batch_has_at_most_its_size_and_a_larger_request_is_cut():
    model = Model()
    answers = ask(ScoringQueue(model, JOINING, Tally((1,))), *[rows(place) for place in range(70)])
    assert [answer[0] for answer in answers] == [*range(70)]
    assert model.sizes == [32, 32, 6]
    large = ask(ScoringQueue(model, JOINING, Tally((1,))), rows(*range(600)))[0]
    assert large.tolist() == [*range(600)]
    assert model.sizes[3:] == [256, 256, 88]


def test_where_rows_are_not_joined_each_request_is_a_call_of_its_own():
    model = Model()
    ask(ScoringQueue(model, APART, Tally((1,))), rows(1), rows(2, 3), rows(4))
    assert model.sizes == [1, 2, 1]


def test_a_row_that_the_model_cannot_answer_does_not_spoil_those_beside_it():
    answers = ask(ScoringQueue(Model(), JOINING, Tally((1,))), rows(1), rows(1e7), rows(3))
    assert [answers[0].tolist(), answers[2].tolist()] == [[1], [3]]
    assert isinstance(answers[1], BadData)


def test_a_slow_model_runs_in_a_thread_and_takes_what_queued_meanwhile_at_once():
    model, slow = Model(0.05), Pace(32, 256, 0.05, 1e-6, "")
    queue, turns = ScoringQueue(model, slow, Tally((1,))), 0

    async def load() -> None:
        nonlocal turns
        first = asyncio.ensure_future(queue.score(rows(0), FAR))
        while not model.sizes:
            await asyncio.sleep(0.001)
        others = [asyncio.ensure_future(queue.score(rows(place), FAR)) for place in range(20)]
        while not first.done():
            turns += 1
            await asyncio.sleep(0.001)
        await asyncio.gather(*others)

    asyncio.run(load())
    assert model.sizes == [1, 20]
    assert threading.get_ident() not in model.threads
    assert turns > 5


def test_what_cannot_be_answered_in_time_is_refused_at_once():
    queue = ScoringQueue(Model(), Pace(1, 256, 0.0, 0.1, ""), Tally((1,)))
    began = time.perf_counter()
    answers = ask(queue, *[rows(place) for place in range(10)], deadline=began + 0.35)
    late = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert len(late) == 8  # the wait of the third would fit, but not twice
    assert all(1 <= error.retry_after <= 60 for error in late)


def test_rows_that_are_with_the_model_are_before_those_that_come():
    slow = Pace(1, 256, 0.0, 0.1, "")
    queue = ScoringQueue(Model(0.1), slow, Tally((1,)))

    async def load() -> None:
        first = asyncio.ensure_future(queue.score(rows(0), FAR))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="1 rows are before this one"):
            queue.require_time(time.perf_counter() + 0.25)
        await first
        queue.require_time(time.perf_counter() + 10)

    asyncio.run(load())


def test_what_else_the_process_does_counts_into_the_wait():
    queue = ScoringQueue(Model(0.01), Pace(1, 256, 0.0, 0.01, ""), Tally((1,)))

    async def load() -> None:
        for _ in range(3):
            asked = asyncio.ensure_future(queue.score(rows(0), FAR))
            await asyncio.sleep(0)
            time.sleep(0.1)  # such as bodies that are read
            await asked
        asked = asyncio.ensure_future(queue.score(rows(0), FAR))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="1 rows are before this one"):
            queue.require_time(time.perf_counter() + 0.06)
        await asked

    asyncio.run(load())


def test_a_large_request_is_refused_before_its_first_piece_is_scored():
    model = Model()
    answers = ask(ScoringQueue(model, Pace(1, 256, 0.0, 0.001, ""), Tally((1,))), rows(*range(2560)), deadline=time.perf_counter() + 1)
    assert isinstance(answers[0], Overloaded)
    assert model.sizes == []


def test_who_is_past_his_deadline_when_his_turn_comes_is_not_scored():
    model = Model(0.1)
    queue = ScoringQueue(model, Pace(1, 256, 0.003, 0.0, ""), Tally((1,)))
    answers = ask(queue, rows(1), rows(2), deadline=time.perf_counter() + 0.05)
    assert answers[0].tolist() == [1]
    assert isinstance(answers[1], Overloaded)
    assert model.sizes == [1]


def test_who_has_gone_is_not_scored():
    model = Model()
    queue = ScoringQueue(model, JOINING, Tally((1,)))

    async def leave() -> np.ndarray:
        gone = asyncio.ensure_future(queue.score(rows(1, 1, 1), FAR))
        stays = asyncio.ensure_future(queue.score(rows(2), FAR))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(leave()).tolist() == [2]
    assert model.sizes == [1]


def test_twice_the_load_that_a_model_bears_leaves_its_goodput_as_it_was():
    """A call takes 10 ms and a request is a call: it bears 100 a second. Each waits 200 ms at most."""

    async def load(rate: float, seconds: float) -> tuple[int, float]:
        queue = ScoringQueue(Model(0.01), Pace(1, 256, 0.01, 0.0, ""), Tally((1,)))
        asked, began = [], time.perf_counter()

        async def one() -> float | None:
            start = time.perf_counter()
            try:
                await queue.score(rows(1), start + 0.2)
            except Overloaded:
                return None
            return time.perf_counter() - start

        while (now := time.perf_counter()) - began < seconds:
            while len(asked) < (now - began) * rate:
                asked.append(asyncio.ensure_future(one()))
            await asyncio.sleep(0.002)
        times = [spent for spent in await asyncio.gather(*asked) if spent is not None]
        return len(times), max(times)

    peak, _ = asyncio.run(load(95, 1.5))
    goodput, slowest = asyncio.run(load(190, 1.5))
    assert goodput >= 0.85 * peak  # the machine may be busy
    assert slowest < 0.4


@pytest.fixture(scope="module", params=["forest", "network", "tiny"])
def session(request):
    model = {"forest": forest, "network": network, "tiny": tiny_model}[request.param]()
    return runtime.load(model.data, model.digest)


compositions = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(compositions, st.integers(0, 2**32 - 1))
def test_every_composition_of_a_batch_gives_onnx_runtimes_own_bits(session, sizes, seed):
    width = len(session.signature.inputs)
    every = np.random.default_rng(seed).normal(size=(sum(sizes), width)).astype(np.float32)
    matrices = np.split(every, np.cumsum(sizes)[:-1])
    queue = ScoringQueue(session.score, measure(session.raw_score, width), Tally((1,)))
    for matrix, answer in zip(matrices, ask(queue, *matrices), strict=True):
        assert answer.tobytes() == session.raw_score(matrix).tobytes()


def test_a_model_whose_bits_depend_on_the_batch_is_never_batched_nor_cut():
    def depends(matrix: np.ndarray) -> np.ndarray:
        return matrix.sum(axis=1) + np.float32(0 if len(matrix) == 1 else 1e-7)

    pace = measure(depends, 3)
    assert (pace.batch_rows, "last bits" in pace.reason) == (1, True)
    matrix = np.ones((1000, 3), dtype=np.float32)
    assert ask(ScoringQueue(depends, pace, Tally((1,))), matrix)[0].tobytes() == depends(matrix).tobytes()


def test_rows_are_joined_where_a_call_costs_and_not_where_a_row_does():
    def per_call(matrix: np.ndarray) -> np.ndarray:
        time.sleep(0.001)
        return matrix.sum(axis=1)

    def per_row(matrix: np.ndarray) -> np.ndarray:
        time.sleep(0.001 * len(matrix))
        return matrix[:, 0]

    assert measure(per_call, 3).batch_rows > 1
    # sleeping overshoots by the same for one row as for many: that is all there is to save
    assert measure(per_row, 3).row_seconds == pytest.approx(0.001, rel=0.3)


def test_a_score_that_is_no_number_is_still_the_same_bits():
    assert is_row_wise(lambda matrix: np.full(len(matrix), np.nan, dtype=np.float32), np.zeros((64, 2), dtype=np.float32))
