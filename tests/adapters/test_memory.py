"""The in-memory gateway, deployments and prediction log. What they share with real stores is in test_contracts."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from mlops_assets.adapters.memory import (
    MemoryDeployments,
    MemoryGateway,
    MemoryObjectStore,
    MemoryPredictionLog,
    SignedPredictor,
    onnx_predictors,
)
from mlops_assets.core.errors import BadData, NotFound, NotReady, Unavailable
from mlops_assets.core.evidence import Logged, begin, observe
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.policy import Mirror
from mlops_assets.core.routing import Route, Share
from mlops_assets.core.signature import Signature
from mlops_assets.ports import model_key
from tests.serving.models import tiny_model

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
MODEL = "flight-delay"


def requests(n: int, prefix: str = "r", first_unit: int = 0) -> pd.DataFrame:
    numbers = np.arange(n)
    return pd.DataFrame(
        {
            "request_id": [f"{prefix}{i}" for i in numbers],
            "unit": [f"u{first_unit + i}" for i in numbers],
            "event_time": pd.Timestamp("2013-03-01", tz="UTC"),
            "hour": numbers % 24,
        }
    )


class World:
    """Deployments, gateway and log of one model whose releases answer what ``answers`` says."""

    def __init__(self, names=("local",)) -> None:
        self.answers = {"v1": lambda x: np.full(len(x), 0.2), "v2": lambda x: np.full(len(x), 0.8)}
        self.latency = {"v1": 4.0, "v2": 40.0}
        self.deployments = MemoryDeployments(lambda model, release, digest: self.answers[release])
        self.log = MemoryPredictionLog()
        self.gateway = MemoryGateway(self.deployments, self.log, lambda: NOON, lambda release: self.latency[release], names)

    def route(self, generation=1, v2=0, start=20, mirror=None) -> Route:
        for release in ("v1", "v2"):
            self.deployments.start(MODEL, release, "d" * 64, None)
        endpoints = {each.release: each.endpoint for each in self.deployments.running(MODEL)}
        shares = (Share("v1", 0, start), Share("v2", start, start + v2), Share("v1", start + v2, 100)) if v2 else (Share("v1", 0, 100),)
        return Route(MODEL, generation, shares, mirror, endpoints)


def test_shares_are_followed_and_a_unit_keeps_its_release_as_the_share_grows():
    world = World()
    world.gateway.apply(world.route(1, v2=5))
    small = world.gateway.send(MODEL, requests(10_000))
    world.gateway.apply(world.route(2, v2=25))
    large = world.gateway.send(MODEL, requests(10_000, "s"))
    assert 400 < (small["release"] == "v2").sum() < 600
    assert 2_300 < (large["release"] == "v2").sum() < 2_700
    assert (large["release"][small["release"] == "v2"] == "v2").all()


def test_a_request_without_unit_is_split_by_its_own_id():
    world = World()
    world.gateway.apply(world.route(v2=25))
    answers = world.gateway.send(MODEL, requests(4_000).assign(unit=None))
    assert 800 < (answers["release"] == "v2").sum() < 1_200
    assert set(world.log.read(MODEL).rows["unit"]) == set(answers["request_id"])


def test_shadow_answers_are_logged_as_such_counted_for_their_release_and_not_given_to_the_client():
    world = World()
    world.gateway.apply(world.route(mirror=Mirror("v2", 50)))
    answers = world.gateway.send(MODEL, requests(4_000))
    logged = world.log.read(MODEL).rows
    assert set(answers["release"]) == {"v1"}
    assert 1_850 < (logged["role"] == "shadow").sum() < 2_150
    assert set(logged.loc[logged["role"] == "shadow", "release"]) == {"v2"}
    assert world.gateway.sample(MODEL)[0].traffic["v2"].requests == (logged["role"] == "shadow").sum()


def test_counts_and_latencies_make_an_observation_across_gateways_and_a_restart():
    world = World(names=("east", "west"))
    world.gateway.apply(world.route(v2=50))
    world.gateway.send(MODEL, requests(1_000), gateway="east")
    seen = begin(world.gateway.sample(MODEL), "", NOON)
    world.gateway.send(MODEL, requests(1_000), gateway="east")
    world.gateway.restart("west")
    world.gateway.send(MODEL, requests(500), gateway="west")
    seen = observe(seen, world.gateway.sample(MODEL), Logged(""), NOON)
    assert sum(traffic.requests for traffic in seen.traffic.values()) == 1_500
    assert seen.traffic["v1"].errors == 0
    assert 3 < seen.traffic["v1"].latency_quantile(0.5) <= 5
    assert 30 < seen.traffic["v2"].latency_quantile(0.5) <= 50


def test_a_predictor_that_raises_counts_as_errors_and_logs_nothing():
    def broken(matrix):
        raise RuntimeError("boom")

    world = World()
    world.answers["v2"] = broken
    world.gateway.apply(world.route(v2=50))
    answers = world.gateway.send(MODEL, requests(1_000))
    theirs = answers[answers["release"] == "v2"]
    traffic = world.gateway.sample(MODEL)[0].traffic
    assert set(theirs["status"]) == {500}
    assert traffic["v2"].errors == traffic["v2"].requests == len(theirs)
    assert set(world.log.read(MODEL).rows["release"]) == {"v1"}


def test_scores_that_are_not_finite_are_single_errors():
    world = World()
    world.answers["v1"] = lambda x: np.where(x[:, 0] == 7, np.nan, 0.3)
    world.gateway.apply(world.route())
    answers = world.gateway.send(MODEL, requests(240))
    assert (answers["status"] == 500).sum() == 10
    assert world.gateway.sample(MODEL)[0].traffic["v1"].errors == 10


def test_a_release_that_was_stopped_under_its_route_answers_503():
    world = World()
    world.gateway.apply(world.route())
    world.deployments.stop(MODEL, "v1")
    assert set(world.gateway.send(MODEL, requests(5))["status"]) == {503}


def test_a_model_without_route_answers_404_and_counts_nothing():
    world = World()
    assert set(world.gateway.send(MODEL, requests(5))["status"]) == {404}
    assert world.gateway.sample(MODEL)[0].traffic == {}


def test_an_older_generation_is_ignored_and_none_is_minus_one():
    world = World()
    assert world.gateway.applied(MODEL) == {"local": -1}
    world.gateway.apply(world.route(3))
    world.gateway.apply(world.route(2, v2=50))
    assert world.gateway.applied(MODEL) == {"local": 3}
    assert set(world.gateway.send(MODEL, requests(500))["release"]) == {"v1"}


def test_a_route_to_a_release_that_is_not_ready_is_refused_and_the_old_one_stays():
    world = World()
    world.gateway.apply(world.route(1))
    del world.answers["v2"]
    world.deployments.stop(MODEL, "v2")
    with pytest.raises(NotReady):
        world.gateway.apply(world.route(2, v2=5))
    assert world.gateway.applied(MODEL) == {"local": 1}


def test_a_gateway_that_is_down_is_unavailable_and_follows_the_route_once_it_is_back():
    world = World(names=("east", "west"))
    world.gateway.take_down("west")
    with pytest.raises(Unavailable):
        world.gateway.apply(world.route(1))
    with pytest.raises(Unavailable):
        world.gateway.send(MODEL, requests(1), gateway="west")
    world.gateway.restart("west")
    assert world.gateway.applied(MODEL) == {"east": 1, "west": 1}


def test_a_release_that_cannot_be_loaded_is_never_ready_until_it_is_started_again():
    objects = MemoryObjectStore()
    deployments = MemoryDeployments(onnx_predictors(objects))
    model = tiny_model()
    with pytest.raises(NotFound):
        deployments.wait_ready("tiny", "v1", 1)
    deployments.start("tiny", "v1", model.digest, None)
    with pytest.raises(NotReady, match="no object"):
        deployments.wait_ready("tiny", "v1", 1)
    assert [each.ready for each in deployments.running("tiny")] == [False]
    objects.create(model_key("tiny", "v1"), model.data)
    deployments.start("tiny", "v1", model.digest, None)
    assert deployments.wait_ready("tiny", "v1", 1).ready


def test_a_file_with_another_digest_is_not_run():
    objects = MemoryObjectStore()
    objects.create(model_key("tiny", "v1"), tiny_model().data)
    deployments = MemoryDeployments(onnx_predictors(objects))
    deployments.start("tiny", "v1", "0" * 64, None)
    with pytest.raises(NotReady, match="DigestMismatch"):
        deployments.wait_ready("tiny", "v1", 1)


def test_an_onnx_release_gets_encoded_categories_and_logs_raw_ones():
    objects = MemoryObjectStore()
    model = tiny_model()
    objects.create(model_key("tiny", "v1"), model.data)
    deployments, log = MemoryDeployments(onnx_predictors(objects)), MemoryPredictionLog()
    deployments.start("tiny", "v1", model.digest, None)
    gateway = MemoryGateway(deployments, log, lambda: NOON)
    gateway.apply(Route("tiny", 1, (Share("v1", 0, 100),), None, {"v1": deployments.running("tiny")[0].endpoint}))
    rows = requests(2).drop(columns="hour").assign(carrier=["UA", "AA"], distance=[1.0, None], hour=0.5)
    answers = gateway.send("tiny", rows)
    assert answers["score"].tolist() == pytest.approx([1 / (1 + np.exp(-2.5)), 1 / (1 + np.exp(-0.5))])
    assert log.read("tiny").rows["feature__carrier"].tolist() == ["UA", "AA"]


def test_the_decision_follows_the_signature_threshold():
    signature = Signature(MODEL, (Feature("hour"),), "tailnum", 0.15, "t")
    world = World()
    world.answers["v1"] = SignedPredictor(signature, lambda x: np.where(x[:, 0] > 12, 0.2, 0.1))
    world.gateway.apply(world.route())
    world.gateway.send(MODEL, requests(24))
    rows = world.log.read(MODEL).rows
    assert (rows["decision"] == (rows["feature__hour"] > 12)).all()


def test_a_feature_that_is_no_number_is_refused_and_not_counted():
    world = World()
    world.gateway.apply(world.route())
    with pytest.raises(BadData):
        world.gateway.send(MODEL, requests(2).assign(hour=["seven", "eight"]))
    with pytest.raises(BadData):
        world.gateway.send(MODEL, requests(2).drop(columns="unit"))
    assert world.gateway.sample(MODEL)[0].traffic == {}


def test_the_log_is_read_from_a_position_on_with_columns_that_may_be_unknown():
    world = World()
    world.gateway.apply(world.route())
    assert world.log.read(MODEL).rows.empty
    world.gateway.send(MODEL, requests(3))
    first = world.log.read(MODEL)
    assert first.position == world.log.position(MODEL)
    world.gateway.send(MODEL, requests(2, "s"))
    rest = world.log.read(MODEL, first.position, ["request_id", "feature__other"])
    assert rest.rows["request_id"].tolist() == ["s0", "s1"]
    assert rest.rows["feature__other"].isna().all()
    assert world.log.read(MODEL, rest.position).rows.empty
    assert str(first.rows["logged_at"].dtype) == str(first.rows["event_time"].dtype) == "datetime64[us, UTC]"
    with pytest.raises(BadData):
        world.log.read(MODEL, "yesterday")


def test_the_same_request_twice_counts_once_within_a_read():
    world = World()
    world.gateway.apply(world.route())
    world.gateway.send(MODEL, requests(3))
    world.gateway.send(MODEL, requests(3))
    assert len(world.log.read(MODEL).rows) == 3


def test_however_many_rows_each_predictor_is_asked_once():
    """A test that sends a day of requests depends on it."""
    world, asked = World(), []
    for release, answer in list(world.answers.items()):
        world.answers[release] = lambda x, release=release, answer=answer: asked.append(release) or answer(x)
    world.gateway.apply(world.route(v2=25, mirror=Mirror("v2", 50)))
    world.gateway.send(MODEL, requests(10_000))
    assert sorted(asked) == ["v1", "v2", "v2"]  # v2's own share, and the copies of v1's
