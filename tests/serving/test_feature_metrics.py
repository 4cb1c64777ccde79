"""What is counted of the inputs, and of what a process has to do."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from mlops_assets.adapters.prediction_log import Answer, LoggedInput, to_table
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.signature import Signature, ranges_of
from serving.feature_metrics import FeatureMetrics
from serving.metrics import Metrics
from serving.shared_numbers import Numbers
from tests.servers import eventually
from tests.serving.models import GOOD, INPUTS, SIGNATURE, tiny_model
from tests.serving.world import World

RANGED = replace(SIGNATURE, ranges={"hour": (0.0, 23.0), "distance": (0.30000001192092896, 100.0)})
LOGGED = tuple(LoggedInput(feature.name, bool(feature.categories)) for feature in INPUTS)


def table(*rows: tuple):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    answers = [Answer(str(n), "u", "live", 0.5, True, 1.0, now, now, row) for n, row in enumerate(rows)]
    return to_table("tiny", "v1", LOGGED, answers)


def counted(metrics: FeatureMetrics) -> dict[tuple[str, str], float]:
    families = list(metrics.families("tiny", "v1"))
    return {(family.name, sample.labels.get("feature", "")): sample.value for family in families for sample in family.samples}


@pytest.mark.parametrize(
    ("value", "nulls", "outside"),
    [
        ((5.0, 10.0, "AA"), (0, 0, 0), (0, 0, 0)),
        ((None, float("nan"), None), (1, 1, 1), (0, 0, 0)),
        ((-1.0, 101.0, "ZZ"), (0, 0, 0), (1, 1, 1)),
        ((0.0, 100.0, "UA"), (0, 0, 0), (0, 0, 0)),
        ((23.0, 0.3, "UA"), (0, 0, 0), (0, 0, 0)),  # which is below its own float32, as the model sees it
        ((float("inf"), -float("inf"), ""), (0, 0, 0), (1, 1, 1)),
    ],
)
def test_each_value_is_there_or_not_and_in_the_range_of_training_or_not(value: tuple, nulls: tuple, outside: tuple) -> None:
    metrics = FeatureMetrics(RANGED, Numbers())
    metrics.count(table(value))
    found = counted(metrics)
    names = ("hour", "distance", "carrier")
    assert found["mlops_feature_rows", ""] == 1
    assert tuple(found["mlops_feature_nulls", name] for name in names) == nulls
    assert tuple(found["mlops_feature_out_of_range", name] for name in names) == outside


def test_a_model_that_was_made_before_ranges_were_kept_counts_what_it_knows() -> None:
    metrics = FeatureMetrics(SIGNATURE, Numbers())
    metrics.count(table((-1e9, None, "ZZ")))
    found = counted(metrics)
    assert [found["mlops_feature_out_of_range", name] for name in ("hour", "distance", "carrier")] == [0, 0, 1]


def test_an_old_signature_has_no_ranges_and_a_new_one_brings_them() -> None:
    document = RANGED.to_json()
    assert Signature.from_json(document) == RANGED
    assert Signature.from_json(document.replace('"ranges"', '"unknown"')).ranges == {}


def test_the_ranges_are_those_of_the_training_matrix() -> None:
    matrix = np.asarray([[1, 0, 7], [np.nan, 1, np.nan], [3, -1, np.nan]], dtype=np.float32)
    inputs = (Feature("a"), Feature("b", ("x", "y")), Feature("c"))
    assert ranges_of(inputs, matrix) == {"a": (1.0, 3.0), "c": (7.0, 7.0)}
    assert ranges_of(inputs, np.full((2, 3), np.nan, dtype=np.float32)) == {}


def test_marked_fields_are_not_looked_at_since_they_are_not_logged_as_they_are() -> None:
    metrics = FeatureMetrics(replace(RANGED, pii={"carrier": "hash", "hour": "drop"}), Numbers())
    metrics.count(table((None, None, "7f3a")).drop_columns(["feature__hour"]))
    found = counted(metrics)
    assert {name for _, name in found} == {"", "distance"}
    assert found["mlops_feature_nulls", "distance"] == 1


def test_two_workers_tell_one_sum() -> None:
    numbers = Numbers(workers=2)
    one, other = FeatureMetrics(RANGED, numbers), FeatureMetrics(RANGED, numbers.of(1))
    one.count(table((None, 1.0, "AA")))
    other.count(table((None, 1.0, "AA"), (1.0, None, "AA")))
    assert counted(one) == counted(other)
    assert counted(one)["mlops_feature_nulls", "hour"] == 2


def test_what_a_release_is_can_be_told_twice_and_takes_its_numbers_once() -> None:
    metrics = Metrics("tiny", "v1", CollectorRegistry())
    assert metrics.describe("d" * 64, SIGNATURE) is metrics.describe("d" * 64, SIGNATURE)


@pytest.fixture
def world(tmp_path: Path):
    made = World(tmp_path)
    yield made
    made.close()


def test_a_served_request_is_counted_when_the_log_ships_it(world: World) -> None:
    client = world.ready(tiny_model(RANGED))
    for inputs in (GOOD, {**GOOD, "hour": None}, {**GOOD, "hour": 99, "carrier": "ZZ"}):
        assert client.post("/predict", json={"inputs": inputs, "unit": "u"}).status_code == 200
    who = {"model": "tiny", "release": "v1"}

    def value(name: str, **labels: str) -> float:
        return world.registry.get_sample_value(name, who | labels) or 0.0

    eventually(lambda: value("mlops_feature_rows_total") == 3)
    assert value("mlops_feature_nulls_total", feature="hour") == 1
    assert value("mlops_feature_out_of_range_total", feature="hour") == 1
    assert value("mlops_feature_out_of_range_total", feature="carrier") == 1
    assert value("mlops_release_info", digest=tiny_model(RANGED).digest) == 1


def test_requests_under_way_and_rows_in_the_queue_are_shown_while_they_are(world: World) -> None:
    client = world.ready()
    assert world.replica is not None
    loaded = world.replica.require_ready()
    score = loaded.queue._score

    def slow(matrix: np.ndarray) -> np.ndarray:
        time.sleep(0.05)
        return score(matrix)

    loaded.queue._score = slow  # type: ignore[method-assign]
    seen: list[tuple[float, float]] = []

    def look() -> None:
        who = {"model": "tiny", "release": "v1"}
        names = ("mlops_requests_in_flight", "mlops_queue_rows")
        seen.append(tuple(world.registry.get_sample_value(name, who) or 0.0 for name in names))  # type: ignore[arg-type]
        time.sleep(0.02)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(client.post, "/predict", json={"inputs": GOOD, "unit": "u"}) for _ in range(40)]
        while not all(each.done() for each in asked):
            look()
    assert max(in_flight for in_flight, _ in seen) >= 1
    assert max(rows for _, rows in seen) >= 1
    time.sleep(0.6)
    look()
    assert seen[-1] == (0, 0)
