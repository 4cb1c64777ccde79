"""``python -m serving`` with one part taken out, to see what it costs. ``ours.py PART --port PORT``; PART may be ``nothing``, or
``fdatasync`` to have answers wait for the disk."""

import os
import sys
from collections.abc import Callable

import msgspec
import numpy as np

from serving import replica
from serving.__main__ import main
from serving.exchange import PredictExchange, PredictQuestion
from serving.group_commit import GroupCommit
from serving.metrics import RoleMetrics, Tally
from serving.pace import Pace, measure
from serving.protocol import PredictRequest, Question


def without_log() -> None:
    async def at_once(self: GroupCommit, answers: object) -> None:
        pass

    GroupCommit.commit = at_once
    replica.answers_of = lambda *said: ()


def with_fdatasync() -> None:
    os.environ["MLOPS_LOG_DURABILITY"] = "fdatasync"


def without_metrics() -> None:
    RoleMetrics.answered = lambda self, scores, seconds: None
    Tally.observe = lambda self, value: None


def without_joining() -> None:
    def alone(score: Callable[[np.ndarray], np.ndarray], width: int) -> Pace:
        found = measure(score, width)
        return Pace(1, found.piece_rows, found.call_seconds, found.row_seconds, "rows are not joined: the bench wants it so")

    replica.measure = alone


def without_types() -> None:
    def read(_exchange: PredictExchange, body: bytes, *_said: object) -> PredictQuestion:
        values = tuple(msgspec.json.decode(body)["inputs"].values())
        return PredictQuestion(PredictRequest((Question("r", "r", None, values),), False), np.array([values], dtype=np.float32))

    PredictExchange.read = read


PARTS = {
    "nothing": lambda: None,
    "log": without_log,
    "fdatasync": with_fdatasync,
    "metrics": without_metrics,
    "joining": without_joining,
    "types": without_types,
}

if __name__ == "__main__":
    PARTS[sys.argv.pop(1)]()
    main()
