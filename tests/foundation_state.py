"""Run by the code of the foundation, never by this one: a model of which v2 is champion and v3 in canary, as it is stored by that.

``python foundation_state.py HOME S3_URL``; prints what it wrote as JSON.
"""

import hashlib
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
from mlflow import MlflowClient

from mlops_assets.adapters.codec import encode_observation
from mlops_assets.adapters.envoy_state import Entry, write_state
from mlops_assets.adapters.s3 import S3ObjectStore, S3PolicyStore
from mlops_assets.core import evidence, routing
from mlops_assets.core import policy as policies
from mlops_assets.core.evidence import GatewaySample, Traffic
from mlops_assets.core.model_spec import Step
from mlops_assets.core.policy import Author, Policy
from mlops_assets.records import write_missing

MODEL, ADA, HOUR = "flight-delay", Author("ada", "a test"), timedelta(hours=1)


def main(home: Path, url: str) -> None:
    objects, store, now = S3ObjectStore(url), S3PolicyStore(url), datetime.now(UTC)
    policy = Policy(MODEL)
    for release in ("v1", "v2", "v3"):
        data = release.encode()
        objects.create(f"models/{MODEL}/{release}/model.onnx", data)
        policy = policies.register(policy, release, hashlib.sha256(data).hexdigest(), ADA, now)
        policy = policies.accept(policies.stage(policy, release, ADA, now), release, ADA, now)
        policy = policies.begin(policy, release, Step("shadow", HOUR, mirror=100), ADA, now)
        if release != "v3":
            policy = policies.promote(policy, ADA, now, HOUR)
    policy = policies.advance(policy, 1, Step("canary-5", HOUR, weight=5), ADA, now)
    store.write(policy, 0)

    before, after = ([GatewaySample("local", "epoch", {"v2": Traffic(19 * n), "v3": Traffic(n)})] for n in (1, 5))
    seen = evidence.observe(evidence.begin(before, "", now), after, {}, "", now)
    objects.put(f"evidence/{MODEL}/v3/1/1-canary-5.json", encode_observation(seen))

    route = routing.route(policy, {"v1": "127.0.0.1:1", "v2": "127.0.0.1:2", "v3": "127.0.0.1:3"}, now)
    (home / "envoy").mkdir(parents=True)
    write_state(home / "envoy", {MODEL: Entry(active=route)})

    (home / "dagster").mkdir()
    (home / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    spec = SimpleNamespace(slug="flight_delay")
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        instance.add_dynamic_partitions("flight_delay_releases", ["v1", "v2", "v3"])
        write_missing(instance, spec, policy, 0)

    (home / "mlflow").mkdir()
    client = MlflowClient(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    client.create_registered_model(MODEL)
    for _ in ("v1", "v2", "v3"):
        client.create_model_version(MODEL, source="mlflow-artifacts:/x")
    client.set_registered_model_alias(MODEL, "champion", "2")
    told = {"champions": policy.champions, "weights": dict(policy.weights), "generation": policy.generation}
    told["log"] = [[change.generation, change.action, change.release] for change in policy.log]
    told["shares"] = [[share.release, share.start, share.end] for share in route.shares]
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
