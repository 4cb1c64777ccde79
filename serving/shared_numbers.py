"""Numbers that the workers of a release count in memory that they share: each changes its own, and any of them can tell all together."""

from __future__ import annotations

import mmap

SLOTS = 8192
"""How many numbers a worker has. Memory is shared with processes that are forked later, so it must be there before they are known."""

_BYTES = 8


class Numbers:
    """The numbers of one worker beside those of the others.

    Args:
        workers: how many there are.
        worker: which of them this is, from 0.
        memory: that of all, if another already has it.
    """

    def __init__(self, workers: int = 1, worker: int = 0, memory: mmap.mmap | None = None) -> None:
        self._workers, self._memory, self._taken = workers, memory or mmap.mmap(-1, workers * SLOTS * _BYTES), 0
        self._worker = worker

    def of(self, worker: int) -> Numbers:
        """The same, as another worker has them. It must take its parts in the same order."""
        return Numbers(self._workers, worker, self._memory)

    def take(self, count: int) -> Part:
        """The next ``count`` numbers; :class:`ValueError` if there are not so many left."""
        if self._taken + count > SLOTS:
            raise ValueError(f"got {self._taken} numbers in use and {count} more asked for, expected at most {SLOTS}: raise SLOTS")
        rows = [memoryview(self._memory).cast("d")[worker * SLOTS :][self._taken : self._taken + count] for worker in range(self._workers)]
        self._taken += count
        return Part(rows, self._worker)


class Part:
    """Some of the numbers. ``mine`` are this worker's, which nobody else changes.

    >>> here = Numbers(workers=2)
    >>> one, other = here.take(2), here.of(1).take(2)
    >>> one.mine[0] += 3; other.mine[0] += 4
    >>> one.total(), other.total(), list(one.mine)
    ([7.0, 0.0], [7.0, 0.0], [3.0, 0.0])
    """

    __slots__ = ("_rows", "mine")

    def __init__(self, rows: list[memoryview], worker: int) -> None:
        self._rows, self.mine = rows, rows[worker]

    def total(self) -> list[float]:
        """The sums over all workers."""
        return [sum(column) for column in zip(*self._rows, strict=True)]

    def forget(self, worker: int) -> None:
        """Set a worker's numbers to 0, after its end."""
        for place in range(len(self.mine)):
            self._rows[worker][place] = 0.0
