"""Who asks the model, and when: rows that have queued are scored together, and what would come too late is refused at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from serving.limits import MAX_REQUESTS_AT_ONCE, Overloaded
from serving.metrics import Tally
from serving.pace import Pace

INLINE_SECONDS = 0.002
"""A call that takes longer is made in a thread, so that the other connections are read meanwhile."""

_WEIGHT_OF_LAST = 0.05
_MOST_SLOWDOWN = 8.0
"""A process that was held up once must not refuse what it can bear."""

_SPARE = 2.0
"""How many times the estimated wait must fit before a deadline. Under too much load the queue is always as long as it may be, and everybody
waits that long: with nothing to spare half of the answers would come a little too late, and the work on them be wasted."""

Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    matrix: np.ndarray
    deadline: float
    done: asyncio.Future[np.ndarray]
    began: float
    expected: float


class ScoringQueue:
    """The way of one process to its model, from the event loop's thread.

    A call of the model takes what has queued while the last one ran, at most ``pace.batch_rows`` rows; nothing ever waits for more to
    come. Where joining does not help, or would change a bit of the answers (:mod:`serving.pace`), a request is a call.

    Args:
        score: the model, callable from another thread.
        pace: what was measured of it.
        batches: counts the rows of each call.
    """

    def __init__(self, score: Score, pace: Pace, batches: Tally) -> None:
        self._score, self._batch_rows, self._piece_rows, self._batches = score, pace.batch_rows, pace.piece_rows, batches
        self._row_seconds, self._call_seconds = pace.row_seconds, pace.call_seconds
        self._waiting: deque[_Job] = deque()
        self._rows_waiting = self._rows_under_way = 0
        self._is_under_way = False
        self._spent = self._expected = 0.0

    @property
    def rows(self) -> int:
        """How many rows wait, or are with the model."""
        return self._rows_waiting + self._rows_under_way

    def require_time(self, deadline: float, rows: int = 1) -> None:
        """See that ``rows`` could be scored by ``deadline``, before any work is done for them; :class:`Overloaded` if not."""
        before = self._rows_waiting + self._rows_under_way
        wait, own = self._slowdown() * self._seconds(before) if before else 0.0, self._seconds(rows)
        if perf_counter() + _SPARE * wait + own > deadline:
            raise Overloaded(f"{before} rows are before this one, about {wait + own:.3f} s, too much for its deadline", wait + own)
        if len(self._waiting) >= MAX_REQUESTS_AT_ONCE:
            raise Overloaded(f"{len(self._waiting)} requests are waiting", wait)

    async def score(self, matrix: np.ndarray, deadline: float) -> np.ndarray:
        """The scores of the rows.

        Args:
            matrix: float32 of shape (rows, features).
            deadline: on the clock of ``perf_counter``, by when the answer is of use.

        Raises:
            Overloaded: at once if it could not come by then, or as soon as that is clear.
            BadData: if the model does not answer with numbers.
        """
        rows = len(matrix)
        self.require_time(deadline, rows)
        if rows > self._piece_rows:  # others get their turn between the pieces
            pieces = [matrix[start : start + self._piece_rows] for start in range(0, rows, self._piece_rows)]
            return np.concatenate([await self._ask(piece, deadline) for piece in pieces])
        if self._batch_rows == 1 and not self._is_under_way and self._seconds(rows) <= INLINE_SECONDS:
            return self._timed(matrix)
        return await self._ask(matrix, deadline)

    def _ask(self, matrix: np.ndarray, deadline: float) -> asyncio.Future[np.ndarray]:
        loop = asyncio.get_running_loop()
        expected = self._seconds(self._rows_waiting + self._rows_under_way + len(matrix))
        job = _Job(matrix, deadline, loop.create_future(), perf_counter(), expected)
        self._waiting.append(job)
        self._rows_waiting += len(matrix)
        if not self._is_under_way:
            self._is_under_way = True
            loop.call_soon(self._next)
        return job.done

    def _next(self) -> None:
        jobs = self._take()
        self._rows_under_way = 0
        if not jobs:
            self._is_under_way = False
            return
        matrix = jobs[0].matrix if len(jobs) == 1 else np.concatenate([job.matrix for job in jobs])
        self._rows_under_way = len(matrix)
        loop = asyncio.get_running_loop()
        if self._seconds(len(matrix)) > INLINE_SECONDS:
            call = loop.run_in_executor(None, self._outcome, matrix)
            call.add_done_callback(lambda done: self._thread_answered(jobs, done.result()))
            return
        self._answer(jobs, self._outcome(matrix))
        self._rows_under_way = 0
        if self._waiting:
            loop.call_soon(self._next)
        else:
            self._is_under_way = False

    def _thread_answered(self, jobs: list[_Job], outcome: np.ndarray | Exception) -> None:
        self._answer(jobs, outcome)
        self._next()

    def _take(self) -> list[_Job]:
        """The jobs of the next call. Who cannot be answered in time any more is told so instead of being scored."""
        jobs: list[_Job] = []
        room, now = self._batch_rows, perf_counter()
        while self._waiting:
            rows = len(self._waiting[0].matrix)
            if jobs and rows > room:
                break
            job = self._waiting.popleft()
            self._rows_waiting -= rows
            if job.done.done():  # nobody waits for it any more
                continue
            if job.deadline < now + self._seconds(rows):
                job.done.set_exception(Overloaded("the rows waited for the model until it was too late"))
                continue
            jobs.append(job)
            room -= rows
        return jobs

    def _answer(self, jobs: list[_Job], outcome: np.ndarray | Exception) -> None:
        if isinstance(outcome, Exception):
            self._answer_each(jobs, outcome)
            return
        start, now = 0, perf_counter()
        for job in jobs:
            self._spent += _WEIGHT_OF_LAST * (now - job.began - self._spent)
            self._expected += _WEIGHT_OF_LAST * (job.expected - self._expected)
            end = start + len(job.matrix)
            if not job.done.done():
                job.done.set_result(outcome[start:end])
            start = end

    def _answer_each(self, jobs: list[_Job], error: Exception) -> None:
        """A row that the model cannot answer must not spoil those that were asked beside it."""
        for job in jobs:
            outcome = error if len(jobs) == 1 else self._outcome(job.matrix)
            if job.done.done():
                continue
            if isinstance(outcome, Exception):
                job.done.set_exception(outcome)
            else:
                job.done.set_result(outcome)

    def _outcome(self, matrix: np.ndarray) -> np.ndarray | Exception:
        try:
            return self._timed(matrix)
        except Exception as error:  # it is raised where the answer is awaited
            return error

    def _timed(self, matrix: np.ndarray) -> np.ndarray:
        began = perf_counter()
        scores = self._score(matrix)
        rows = len(matrix)
        spent = (perf_counter() - began - self._call_seconds) / rows
        self._row_seconds += _WEIGHT_OF_LAST * (max(0.0, spent) - self._row_seconds)
        self._batches.observe(rows)
        return scores

    def _slowdown(self) -> float:
        """How many times longer than the model alone rows took lately: bodies are read and answers written beside it, on the same core."""
        return min(_MOST_SLOWDOWN, max(1.0, self._spent / self._expected)) if self._expected else 1.0

    def _seconds(self, rows: int) -> float:
        """About how long the model takes for so many rows, by what it took lately."""
        calls = 1 + rows // self._batch_rows if self._batch_rows > 1 else 1
        return calls * self._call_seconds + rows * self._row_seconds
