"""``python -m serving`` with one part taken out, to see what it costs. ``ours.py PART --port PORT``; PART may be ``nothing``."""

import sys
from collections.abc import Callable

import msgspec
import numpy as np

from serving import replica
from serving.__main__ import main
from serving.exchange import PredictExchange, PredictQuestion
from serving.metrics import RoleMetrics, Tally
from serving.pace import Pace, measure
from serving.prediction_log import PredictionLog
from serving.protocol import PredictRequest, Question


def without_log() -> None:
    PredictionLog.append = lambda self, answers: None


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
    "metrics": without_metrics,
    "joining": without_joining,
    "types": without_types,
}

if __name__ == "__main__":
    PARTS[sys.argv.pop(1)]()
    main()
