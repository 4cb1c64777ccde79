"""A small, fast model for whole lives in one process: the scaffold's, with little data, a 24-hour canary and a trainer that can fail."""

import importlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import yaml

from mlops_assets.adapters.memory_deployments import Predictor, SignedPredictor, onnx_predictors
from mlops_assets.assets import keys
from mlops_assets.components.attributes import ModelAttributes, build
from mlops_assets.core import policy as policies
from mlops_assets.core.canary_spec import Guardrails, Step
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import ObjectStore
from mlops_assets.reconcile import STAGE_TAG, differences, reconcile, wanted_aliases
from mlops_assets.records import NOUNS, records_of
from mlops_assets.schedules import TRAINING_NOUNS
from tests.world import World

NAME, SLUG = "gift-returns", "gift_returns"
DAYS = 13
"""How many days of data the first training needs."""

HOUR = timedelta(hours=1)
STEPS = (
    Step("shadow", 4 * HOUR, mirror=100, min_requests=100),
    Step("canary-5", 6 * HOUR, weight=5, min_requests=50),
    Step("canary-25", 6 * HOUR, weight=25, min_requests=100),
    Step("canary-50", 8 * HOUR, weight=50, min_requests=100),
)


GUARDRAILS = Guardrails(max_error_rate=0.15, max_error_increase=0.15, latency_quantile=0.85, max_score_shift=0.5)
"""So wide that the 50 requests of canary-5 can show that nothing is beyond."""


def train(features: pd.DataFrame, label: np.ndarray, *, seed: int, behave: str = "well", **hyperparameters: Any):
    """The scaffold's trainer; it raises, or learns from noise, if told to."""
    if behave == "raise":
        raise ZeroDivisionError("no gradient")
    if behave == "noise":
        label = np.random.default_rng(seed).permutation(label)
    scaffolded = importlib.import_module(f"mlops_assets.defs.{SLUG}.training")
    return scaffolded.train(features, label, seed=seed, **hyperparameters)


class Moods:
    """Releases that run, and can be made to break while they do. ``refusing`` ones do not even start."""

    def __init__(self) -> None:
        self.shifted: set[str] = set()
        self.raising: set[str] = set()
        self.refusing: set[str] = set()
        self.objects: ObjectStore | None = None

    def __call__(self, model: str, release: str, digest: str) -> Predictor:
        if release in self.refusing:
            raise MemoryError(f"{release} needs more than there is")
        assert self.objects is not None
        loaded = onnx_predictors(self.objects)(model, release, digest)
        assert isinstance(loaded, SignedPredictor)

        def score(matrix: np.ndarray) -> np.ndarray:
            if release in self.raising:
                raise RuntimeError("a model that breaks live")
            scores = loaded.score(matrix)
            return np.clip(scores + 0.4, 0, 1) if release in self.shifted else scores

        return SignedPredictor(loaded.signature, score)


@dataclass(frozen=True)
class Gifts:
    """The model under test and where its data comes from."""

    spec: ModelSpec
    sample: ModuleType

    _built: dict[str, World] = field(default_factory=dict)

    def with_first_release(self) -> World:
        """v1 serves. Built once: copy it, don't change it."""
        if "v1" not in self._built:
            self._built["v1"], _ = self.world()
            self.first_release(self._built["v1"])
        return self._built["v1"]

    def copy(self, world: World) -> tuple[World, Moods]:
        """Another world in the same state. What the gateway counted is not in it, what the canary has seen of that is."""
        moods = Moods()
        made = World(list(world.specs.values()), moods, like=world)
        moods.objects = made.objects
        made.clock.now = world.clock.now
        made.cursors = dict(world.cursors)
        policy, (theirs, ours) = world.policy(NAME), (world.platform, made.platform)
        for bucket in ("landing/", "tables/", "models/", "evidence/"):
            for info in theirs.objects.list(bucket):
                ours.objects.put(info.key, theirs.objects.get(info.key))
        for logged in theirs.registry.runs.values():
            ours.registry.log_run(logged.run, logged.artifacts)
        for release in policy.digests:
            info = theirs.registry.release(NAME, release)
            ours.registry.register(NAME, info.run_id, info.digest, info.tags)
        ours.policies.write(policy, 0)
        made.platform = replace(ours, features=theirs.features)
        reconcile(made.platform, NAME, self.spec.serving)
        made.instance.add_dynamic_partitions(keys.releases_name(self.spec), list(policy.digests))
        for noun in ("training_set", "release", *sorted(set(NOUNS.values())), "production"):
            for materialization in world.materializations(NAME, noun):
                made.instance.report_runless_asset_event(materialization)
        return made, moods

    def world(self, spec: ModelSpec | None = None) -> tuple[World, Moods]:
        moods = Moods()
        world = World([spec or self.spec], moods)
        moods.objects = world.objects
        return world, moods

    def land(self, world: World, days: int) -> None:
        """So many days of data are there, and the sensors have seen them."""
        self.sample.land(world.objects, days)
        world.clock.advance(HOUR)
        world.settle()

    def first_release(self, world: World) -> None:
        """From an empty world to v1 in production."""
        self.land(world, DAYS)
        self.serve(world, 200)
        world.clock.advance(3 * HOUR)
        world.settle()
        assert world.policy(NAME).champion == "v1", policies.describe(world.policy(NAME))

    def train(self, world: World, gate: str = "refresh", **hyperparameters: Any) -> Any:
        """What an engineer does who trains in the launchpad; the sensors' part comes after."""
        training_set = keys.key(self.spec, "training_set").to_python_identifier()
        ops = {
            training_set: {"config": {"gate": gate}},
            f"{SLUG}_train_and_export": {"config": {"hyperparameters": hyperparameters}},
        }
        return world.materialize(NAME, *TRAINING_NOUNS, config={"ops": ops})

    def requests(self, rows: int, seed: int = 0) -> pd.DataFrame:
        """Orders as they are asked about; each is a unit of its own."""
        rng = np.random.default_rng(seed)
        found = pd.concat([self.sample.orders(date(2024, 3, 1) + timedelta(days=n)) for n in range(rows // 400 + 1)], ignore_index=True)
        orders = found.head(rows)[["event_time", "items", "amount", "discount", "channel"]]
        ids = [f"{seed}-{n}" for n in range(rows)]
        made = {
            "request_id": ids,
            "unit": ids,
            "customer_return_rate": rng.random(rows) * 0.6,
            "customer_outcomes": rng.integers(1, 9, rows),
        }
        return orders.assign(**made)

    def serve(self, world: World, rows: int = 2000) -> pd.DataFrame:
        """Ask so many times; no two calls ask the same units."""
        return world.send(NAME, self.requests(rows, seed=len(world.runs) + int(world.clock().timestamp())))

    def go_on(self, world: World, hours: Sequence[int], rows: int = 2000) -> list[str]:
        """Each time: traffic is seen, the hours pass, the sensors settle. Where it stands after each."""
        stood = []
        for passed in hours:
            world.settle()
            self.serve(world, rows)
            world.clock.advance(passed * HOUR)
            world.settle()
            stood.append(policies.describe(world.policy(NAME)))
        return stood


def gifts(root: Path) -> Gifts:
    """The model that was scaffolded under ``root``."""
    document = yaml.safe_load((root / "mlops_assets" / "defs" / SLUG / "defs.yaml").read_text())
    spec = build(ModelSpec, ModelAttributes.model_validate(document["attributes"]))
    day = timedelta(days=1)
    small = replace(
        spec,
        training=replace(spec.training, trainer="tests.assets.gifts:train", window=6 * day, min_rows=500),
        holdout=replace(spec.holdout, window=4 * day),
        gates=replace(spec.gates, margin=0.05),
        canary=replace(spec.canary, steps=STEPS, guardrails=GUARDRAILS, first_bake=2 * HOUR, deadline=24 * HOUR),
        drift=replace(spec.drift, every=1000 * day),
        retrain=replace(spec.retrain, first_after=6 * day, after_days=2, on_drift_above=None),
    )
    return Gifts(small, importlib.import_module(f"mlops_assets.defs.{SLUG}.sample"))


def assert_settled(world: World) -> None:
    """The world is as the policy says, and Dagster has every change once."""
    policy = world.policy(NAME)
    assert differences(world.platform, NAME) == ()
    assert set(world.gateway.applied(NAME).values()) == {policy.generation}
    wanted = {alias: release for alias, release in wanted_aliases(policy).items() if release is not None}
    assert world.platform.registry.aliases(NAME) == wanted
    for release in policy.digests:
        assert world.platform.registry.release(NAME, release).tags[STAGE_TAG] == policies.stage_of(policy, release)
    assert recorded(world) == Counter((r.noun, r.partition, r.change.generation) for change in policy.log for r in records_of(change))


def recorded(world: World) -> Counter[tuple[str, str | None, int]]:
    """How often Dagster has each change of the policy."""
    found: Counter[tuple[str, str | None, int]] = Counter()
    for noun in ("canary", "promotion", "rollback", "production"):
        for materialization in world.materializations(NAME, noun):
            if (generation := materialization.metadata.get("generation")) is not None:
                found[noun, materialization.partition, generation.value] += 1
    return found
