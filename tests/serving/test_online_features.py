"""Inputs that a request leaves out come from the online store, or what the model declares for it when they cannot."""

import asyncio
import contextlib
import math
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

from mlops_assets.adapters.feast import FeastFeatureStore
from mlops_assets.adapters.online_layout import Held, read_version, write_version
from mlops_assets.adapters.prediction_log import S3PredictionLog
from mlops_assets.core.errors import Unavailable
from mlops_assets.core.feature_spec import Feature, Features, Online
from mlops_assets.core.feature_views import Field, View
from mlops_assets.core.signature import Signature
from mlops_assets.settings import sqlite_url
from serving.inputs import Inputs
from serving.limits import Overloaded
from serving.metrics import OnlineMetrics
from serving.online_features import OnlineFeatures
from serving.protocol import UNSET, PredictRequest, Question
from serving.replica import online_store
from serving.shared_numbers import Numbers
from tests.adapters.small_features import VIEWS
from tests.redis_server import RedisServer, running_redis
from tests.servers import HOST, eventually
from tests.serving.models import ModelFile, tiny_model
from tests.serving.world import World

REPO = Path(__file__).parents[2] / "feature_repo"
NOW = datetime.now(UTC).replace(microsecond=0)
INPUTS = (Feature("sales", default=0.25), Feature("mood", ("good", "bad"), default="bad"), Feature("rain", default=0.5), Feature("size"))
SHOPS = Features("shops_v1", ("shop", "town"), "tests.adapters.small_features:build_views", INPUTS, "shop")
ASKED = {"unit": "u", "entities": {"shop": "A", "town": "Ulm"}, "inputs": {"size": 1}}


@dataclass
class Shop:
    """A feature store whose online store is at ``url``, and releases that read it."""

    home: Path
    url: str
    redis: RedisServer | None

    def __post_init__(self) -> None:
        self.world = World(self.home, replay=True, online_url=self.url, online_timeout=0.5)
        self.store = FeastFeatureStore(REPO, self.home / "feast", self.world.objects.kept, self.url)

    def write(self, view: str, *rows: tuple[object, ...]) -> None:
        """Rows of (entity, event time as an age before now, values...)."""
        names = {"shop_sales": ["shop", "sales", "mood"], "town_weather": ["town", "rain"]}[view]
        told = [(entity, NOW - age, *values) for entity, age, *values in rows]
        frame = pd.DataFrame(told, columns=[names[0], "event_timestamp", *names[1:]])
        frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True).astype("datetime64[us, UTC]")
        frame["created_timestamp"] = frame["event_timestamp"]
        declared = next(each for each in VIEWS if each.name == view)
        for day, part in frame.groupby(frame["event_timestamp"].dt.date):
            self.store.write(declared, day, part.reset_index(drop=True), NOW)

    def fill(self) -> None:
        hour = timedelta(hours=1)
        self.write(
            "shop_sales", ("A", 2 * hour, 0.125, "bad"), ("A", hour, 0.75, "good"), ("B", hour, None, None), ("C", 2 * hour, 3.0, "bad")
        )
        self.write("town_weather", ("Ulm", hour, 0.5), ("Bonn", 2 * hour, -1.0))
        self.store.materialize(SHOPS, NOW)

    def ready(self, online: Online = Online(), **told: object) -> httpx.Client:  # noqa: B008 : frozen
        self.world.told |= told
        return self.world.ready(self.model(online))

    def model(self, online: Online = Online(), **changed: object) -> ModelFile:  # noqa: B008 : frozen
        signature = Signature("tiny", INPUTS, "shop", 0.5, "t", self.store.version(SHOPS), online)
        return tiny_model(replace(signature, **changed), width=len(INPUTS))

    def counted(self, outcome: str) -> float:
        labels = {"model": "tiny", "release": "v1", "outcome": outcome}
        return self.world.registry.get_sample_value("mlops_online_features_total", labels) or 0.0


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    server = request.getfixturevalue("redis_server") if request.param == "redis" else None
    if server is not None:
        server.client.flushall()
    made = Shop(tmp_path, server.url if server else sqlite_url(tmp_path / "online store" / "store.db"), server)
    yield made
    made.world.close()


@pytest.fixture
def redis_shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop with a Redis of its own, to be stopped."""
    with running_redis() as server:
        made = Shop(tmp_path, server.url, server)
        yield made
        made.world.close()


def score(*inputs: float) -> float:
    """The tiny model's, whose categories are their places."""
    return 1 / (1 + math.exp(-sum(inputs)))


def predict(client: httpx.Client, **changed: object) -> httpx.Response:
    return client.post("/predict", json={**ASKED, **changed})


def test_what_a_process_reads_is_what_feast_reads(shop: Shop) -> None:
    shop.fill()
    entities = pd.DataFrame({"shop": ["A", "B", "C", "nobody"], "town": ["Ulm", "Bonn", "nowhere", "Ulm"], "size": 1})
    expected = shop.store.online(SHOPS, entities)
    inputs = Inputs.of(Signature("tiny", INPUTS, "shop", 0.5, "t", shop.store.version(SHOPS)))
    keys = [("shop", name) for name in entities["shop"]] + [("town", name) for name in entities["town"]]
    found = asyncio.run(_read(shop.url, inputs, keys))
    sales, mood = zip(*[held[0].values if held[0] else (None, None) for held in found[:4]], strict=True)
    assert _nulls_as_nan(sales) == _nulls_as_nan(expected["sales"])
    assert list(mood) == list(expected["mood"])
    assert _nulls_as_nan(held[0].values[0] if held[0] else None for held in found[4:]) == _nulls_as_nan(expected["rain"])
    assert found[0][0].event_time == (NOW - timedelta(hours=1)).timestamp()


async def _read(url, inputs, keys):
    return await online_store(url, inputs.views, 1.0).read(keys)


def _nulls_as_nan(values) -> list[str]:
    return [str(np.float64(np.nan if value is None else value)) for value in values]


def test_inputs_left_out_are_looked_up_by_entity(shop: Shop) -> None:
    shop.fill()
    client = shop.ready()
    answer = predict(client)
    assert answer.status_code == 200, answer.text
    assert answer.json()["score"] == pytest.approx(score(0.75, 0, 0.5, 1))
    assert shop.counted("fresh") == 2
    rows = [{**ASKED, "entities": {"shop": name, "town": town}} for name, town in (("A", "Bonn"), ("C", "Ulm"), ("A", "Ulm"))]
    answer = client.post("/predict", json={"rows": rows})
    expected = [score(0.75, 0, -1.0, 1), score(3.0, 1, 0.5, 1), score(0.75, 0, 0.5, 1)]
    assert [each["score"] for each in answer.json()["predictions"]] == pytest.approx(expected)


def test_what_the_caller_sends_stands_and_needs_no_entity(shop: Shop) -> None:
    shop.fill()
    client = shop.ready()
    assert predict(client, inputs={"size": 1, "rain": 9, "sales": None}).json()["score"] == pytest.approx(score(0, 0, 9, 1))
    everything = {"size": 1, "rain": 2, "sales": 3, "mood": "bad"}
    assert client.post("/predict", json={"unit": "u", "inputs": everything}).json()["score"] == pytest.approx(score(3, 1, 2, 1))
    assert shop.counted("fresh") == 1


def test_a_missing_entity_is_named(shop: Shop) -> None:
    shop.fill()
    client = shop.ready()
    answer = client.post("/predict", json={"unit": "u", "entities": {"shop": "A"}, "inputs": {"size": 1}})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "entities.town")
    answer = client.post("/predict", json={"rows": [ASKED, {**ASKED, "entities": {"shop": 7, "town": "Ulm"}}]})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "rows[1].entities.shop")
    answer = predict(client, entities={"shop": "A", "town": "Ulm", "city": "Ulm"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "entities.city")
    assert predict(client, inputs={}).json()["error"]["field"] == "inputs.size"


UNKNOWN = {"shop": "nobody", "town": None}


def test_of_an_unknown_entity_the_model_sees_null_unless_it_declares_otherwise(shop: Shop) -> None:
    shop.fill()
    assert predict(shop.ready(), entities=UNKNOWN).json()["score"] == pytest.approx(score(0, -1, 0, 1))
    assert shop.counted("missing") == 2


def test_of_an_unknown_entity_the_model_may_see_defaults(shop: Shop) -> None:
    shop.fill()
    client = shop.ready(Online(missing="default"))
    assert predict(client, entities=UNKNOWN).json()["score"] == pytest.approx(score(0.25, 1, 0.5, 1))


def test_an_unknown_entity_may_be_refused(shop: Shop) -> None:
    shop.fill()
    client = shop.ready(Online(missing="refuse"))
    answer = predict(client, entities={"shop": "nobody", "town": "Ulm"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "entities.shop")
    assert "'nobody'" in answer.json()["error"]["got"]
    assert predict(client).status_code == 200


@pytest.mark.parametrize(("online", "expected"), [(Online(), 0.0), (Online(stale="default"), 0.25), (Online(stale="refuse"), None)])
def test_a_value_past_its_time_to_live_is_not_served(shop: Shop, online: Online, expected: float | None) -> None:
    shop.fill()
    client = shop.ready(online)
    fresh, late = ((NOW + timedelta(hours=hours)).isoformat() for hours in (1.9, 2.1))  # the sales' ttl is 3 h, and they are 1 h old
    assert predict(client, event_time=fresh).json()["score"] == pytest.approx(score(0.75, 0, 0.5, 1))
    answer = predict(client, event_time=late)
    if expected is None:
        assert answer.status_code == 503
        assert "older than 3:00:00" in answer.text
        assert "retry-after" in answer.headers
    else:
        place = 1 if expected else -1
        assert answer.json()["score"] == pytest.approx(score(expected, place, 0.5, 1))
    assert shop.counted("stale") == 1


def test_a_value_that_came_after_the_replayed_moment_was_not_known_then(shop: Shop) -> None:
    shop.fill()
    client = shop.ready()
    before = (NOW - timedelta(minutes=90)).isoformat()
    assert predict(client, event_time=before).json()["score"] == pytest.approx(score(0, -1, 0, 1))


def test_late_corrections_and_values_that_ended_reach_the_store(shop: Shop) -> None:
    shop.fill()
    client = shop.ready()
    hour = timedelta(hours=1)
    shop.write("shop_sales", ("A", 2 * hour, 0.125, "bad"), ("A", hour, 2.0, "good"), ("B", hour, None, None), ("C", 2 * hour, 3.0, "bad"))
    shop.store.materialize(SHOPS, NOW + timedelta(seconds=1))
    assert predict(client).json()["score"] == pytest.approx(score(2.0, 0, 0.5, 1))


def test_a_store_that_lost_everything_is_filled_again(redis_shop: Shop) -> None:
    redis_shop.fill()
    assert redis_shop.store.materialize(SHOPS, NOW) == 0
    redis_shop.redis.client.flushall()
    assert redis_shop.store.materialize(SHOPS, NOW) == 5


def test_the_log_has_the_values_that_were_looked_up_and_by_which_entities(shop: Shop) -> None:
    shop.fill()
    predict(shop.ready())
    log = S3PredictionLog(shop.world.objects.kept)
    eventually(lambda: len(log.read("tiny").rows) == 1)
    logged = log.read("tiny").rows.iloc[0]
    assert (logged["feature__sales"], logged["feature__mood"], logged["feature__rain"]) == (0.75, "good", 0.5)
    assert (logged["entity__shop"], logged["entity__town"]) == ("A", "Ulm")


def test_a_redis_that_is_down_is_stood_in_for_and_counted_until_it_is_back(redis_shop: Shop) -> None:
    redis_shop.fill()
    client = redis_shop.ready()
    assert predict(client).json()["score"] == pytest.approx(score(0.75, 0, 0.5, 1))
    redis_shop.redis.stop()
    assert predict(client).json()["score"] == pytest.approx(score(0, -1, 0, 1))
    assert redis_shop.counted("unavailable") == 2
    assert client.get("/ready").status_code == 200
    redis_shop.redis.start()
    redis_shop.store.materialize(SHOPS, NOW)
    eventually(lambda: predict(client).json()["score"] == pytest.approx(score(0.75, 0, 0.5, 1)))


def test_a_model_may_refuse_rather_than_guess_when_redis_is_down(redis_shop: Shop) -> None:
    redis_shop.fill()
    client = redis_shop.ready(on_online_down="refuse")
    redis_shop.redis.stop()
    answer = predict(client)
    assert answer.status_code == 503
    assert "does not answer" in answer.text
    assert answer.headers["retry-after"] == "1"
    assert redis_shop.world.counted("unfeatured") == 1
    everything = {"size": 1, "rain": 2, "sales": 3, "mood": "bad"}
    assert predict(client, inputs=everything).status_code == 200


def test_a_redis_that_hangs_costs_one_timeout_and_not_one_each(redis_shop: Shop) -> None:
    redis_shop.fill()
    with socket.create_server((HOST, 0)) as silent:
        redis_shop.world.told["online_url"] = f"redis://{HOST}:{silent.getsockname()[1]}/0"
        client = redis_shop.ready(online_timeout=0.2)
        took = [predict(client).elapsed.total_seconds() for _ in range(5)]
    assert took[0] > 0.15
    assert sum(took[1:]) < 0.2
    assert redis_shop.counted("unavailable") == 10


def test_redis_that_is_not_redis_or_refuses_the_password_is_stood_in_for(redis_shop: Shop) -> None:
    redis_shop.fill()
    redis_shop.world.told["online_url"] = redis_shop.url.replace("a-password", "another")
    assert predict(redis_shop.ready()).json()["score"] == pytest.approx(score(0, -1, 0, 1))


def test_many_requests_at_once_share_a_connection_and_get_their_own_values(redis_shop: Shop) -> None:
    names = [f"shop-{number}" for number in range(700)]
    redis_shop.write("shop_sales", *[(name, timedelta(hours=1), number / 1000, "good") for number, name in enumerate(names)])
    redis_shop.write("town_weather", ("Ulm", timedelta(hours=1), 0.0))
    redis_shop.store.materialize(SHOPS, NOW)
    client = redis_shop.ready(online_timeout=4.0)
    rows = [{"unit": "u", "entities": {"shop": name, "town": "Ulm"}, "inputs": {"size": 0}} for name in names]
    wrong: list[str] = []

    def ask(order: list[int]) -> None:
        answer = client.post("/predict", json={"rows": [rows[place] for place in order]}).json()["predictions"]
        expected = [score(place / 1000) for place in order]
        if [each["score"] for each in answer] != pytest.approx(expected, rel=1e-5):
            wrong.append(str(order[:3]))

    threads = [threading.Thread(target=ask, args=([*np.random.default_rng(n).permutation(700).tolist()],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert int(redis_shop.redis.client.info()["connected_clients"]) <= 3


def test_a_release_of_other_features_is_not_ready_and_says_which(shop: Shop) -> None:
    shop.fill()
    version = shop.store.version(SHOPS)
    sales, weather = version.views
    trained_on = replace(version, views=(replace(sales, ttl=timedelta(hours=2), fields=(*sales.fields, Field("profit"))), weather))
    model = shop.model(features=trained_on)
    client = shop.world.serve(model, model.digest)
    eventually(lambda: "not those of the release" in client.get("/ready").text)
    reason = client.get("/ready").json()["reason"]
    assert "shop_sales: ttl 2:00:00 is 3:00:00" in reason
    assert "shop_sales:profit is missing" in reason
    assert "weather" not in reason
    assert predict(client).status_code == 503
    write_version(shop.world.objects.kept, trained_on, None)  # it was filled by the release's definitions again
    eventually(lambda: client.get("/ready").status_code == 200, within=5)


def test_what_says_so_may_be_corrupt_until_it_is_written_again(shop: Shop) -> None:
    shop.fill()
    shop.world.objects.kept.put("tables/features/online/shops_v1.json", b'{"version": {"service"')
    client = shop.world.serve(shop.model(), shop.model().digest)
    eventually(lambda: "materialize online_features again" in client.get("/ready").text)
    shop.store.materialize(SHOPS, NOW)
    eventually(lambda: client.get("/ready").status_code == 200, within=5)
    assert predict(client).json()["score"] == pytest.approx(score(0.75, 0, 0.5, 1))


def test_a_corrupt_sqlite_file_is_stood_in_for_and_filled_again_when_it_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    shop = Shop(tmp_path, sqlite_url(file), None)
    shop.fill()
    file.write_bytes(b"no database " * 1000)
    client = shop.ready()
    assert predict(client).json()["score"] == pytest.approx(score(0, -1, 0, 1))
    shop.write("town_weather", ("Ulm", timedelta(minutes=30), 0.25))
    other = FeastFeatureStore(REPO, tmp_path / "feast", shop.world.objects.kept, shop.url)
    with pytest.raises(Unavailable, match="delete"):
        other.materialize(SHOPS, NOW)
    file.unlink()
    assert FeastFeatureStore(REPO, tmp_path / "feast", shop.world.objects.kept, shop.url).materialize(SHOPS, NOW) == 5
    shop.world.close()


@pytest.mark.parametrize("reply", [b"$5\r\nhello\r\n", b"*2\r\n$3\r\nabc\r\n", b"!!\r\n", b"-ERR no\r\n"])
def test_whatever_a_redis_answers_is_no_failure_of_the_release(redis_shop: Shop, reply: bytes) -> None:
    redis_shop.fill()

    def answer(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.recv(65536)
                connection.sendall(reply)

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        redis_shop.world.told["online_url"] = f"redis://{HOST}:{listener.getsockname()[1]}/0"
        client = redis_shop.ready(online_timeout=0.3)
        assert predict(client).json()["score"] == pytest.approx(score(0, -1, 0, 1))
        assert predict(client).status_code == 200
    assert redis_shop.world.counted("failed") == 0


def test_the_store_says_by_which_definitions_it_was_filled(shop: Shop) -> None:
    assert read_version(shop.world.objects.kept, "shops_v1") is None
    shop.fill()
    assert read_version(shop.world.objects.kept, "shops_v1") == shop.store.version(SHOPS)


def test_the_openapi_document_says_what_may_be_left_out(shop: Shop) -> None:
    shop.fill()
    client = shop.ready()
    row = client.get("/openapi.json").json()["components"]["schemas"]["Row"]["properties"]
    assert row["inputs"]["required"] == ["size"]
    assert set(row["entities"]["properties"]) == {"shop", "town"}
    assert "shop_sales of shop" in client.get("/docs").text


class SlowStore:
    """An online store that takes its time, and counts how often it was given up."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.given_up = seconds, 0

    async def read(self, keys):
        await asyncio.sleep(self.seconds)
        return [[Held((1.0,), NOW.timestamp())] for _ in keys]

    def give_up(self) -> None:
        self.given_up += 1


def test_a_caller_that_waits_for_less_than_the_store_may_take_costs_nobody_else_the_store() -> None:
    view = View("rain", "town", (Field("rain"),), timedelta(days=1))
    inputs, store = Inputs((Feature("rain"),), (view,), ("town",)), SlowStore(0.05)
    online = OnlineFeatures(inputs, Online(), store, 1.0, "refuse", OnlineMetrics(Numbers()))
    asked = PredictRequest((Question("r", "u", None, (UNSET,), ("Ulm",)),), False)

    async def ask() -> PredictRequest:
        with pytest.raises(Overloaded):
            await online.complete(asked, time.perf_counter() + 0.01)
        with pytest.raises(Overloaded):
            await online.complete(asked, time.perf_counter() - 1)
        return await online.complete(asked, time.perf_counter() + 5)

    assert asyncio.run(ask()).questions[0].values == (1.0,)
    assert store.given_up == 0
