"""A scaffolded model for a stack of its own: its definitions, as code server, exporter and rules load them, and its requests.

``MLOPS_SHOP`` names the folder in which it was scaffolded.
"""

import importlib
import os
from dataclasses import replace
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import feature_repo
import mlops_assets.defs
from mlops_assets.components.model import model_definitions
from mlops_assets.core.canary_spec import Step
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.slo_spec import Slo
from mlops_assets.definitions import shared_definitions
from mlops_assets.scaffold import new_model
from tests.assets.gifts import DAYS, GUARDRAILS, HOUR, NAME, SLUG, gifts

PLACE = "MLOPS_SHOP"
UNUSUAL = 1e12
"""An amount at which the fragile release answers with no number, and the other with one."""

STEPS = (Step("shadow", 2 * HOUR, mirror=100, min_requests=100), Step("canary-50", 2 * HOUR, weight=50, min_requests=100))
_SCALE = np.float32(2.0**100)


def scaffold(root: Path) -> None:
    """Write the model's files."""
    for folder in ("mlops_assets/defs", "feature_repo"):
        (root / folder).mkdir(parents=True)
    new_model(NAME, root)


@cache
def load_specs() -> list[ModelSpec]:
    """The model, small and quick, and to be rolled back when it burns its budget."""
    root = Path(os.environ[PLACE])
    mlops_assets.defs.__path__.append(str(root / "mlops_assets" / "defs"))
    feature_repo.__path__.append(str(root / "feature_repo"))
    importlib.invalidate_caches()
    small = gifts(root).spec
    return [
        replace(
            small,
            training=replace(small.training, trainer="tests.e2e.shop:train"),
            # No training by itself: the test says when there is another release.
            retrain=replace(small.retrain, after_days=None),
            # It is about what happens after a canary, so its own is short, and blind to how slow a busy machine is.
            canary=replace(small.canary, steps=STEPS, deadline=240 * HOUR, guardrails=replace(GUARDRAILS, latency_floor_ms=9000)),
            slo=Slo(availability=0.99, latency=timedelta(seconds=5), on_slo_violation="rollback"),
        )
    ]


@dg.definitions
def defs() -> dg.Definitions:
    specs = load_specs()
    return dg.Definitions.merge(*(model_definitions(spec) for spec in specs), shared_definitions(specs))


def train(features: pd.DataFrame, label: np.ndarray, *, seed: int, behave: str = "well", **hyperparameters: Any):
    """The scaffold's trainer. ``fragile`` is a net that is as good, and whose hidden layer overflows where a value is very large.

    Its weights are scaled by a power of two and back, which changes no answer to anything usual. ``raise`` fails.
    """
    if behave == "raise":
        raise ZeroDivisionError("no gradient")
    if behave != "fragile":
        return importlib.import_module(f"mlops_assets.defs.{SLUG}.training").train(features, label, seed=seed, **hyperparameters)
    imputer = SimpleImputer(strategy="median", keep_empty_features=True)
    net = MLPClassifier((8,), max_iter=80, random_state=seed)
    fitted = make_pipeline(imputer, StandardScaler(), net).fit(features, label)
    net.coefs_ = [net.coefs_[0] * _SCALE, net.coefs_[1] / _SCALE]
    net.intercepts_ = [net.intercepts_[0] * _SCALE, net.intercepts_[1]]
    return fitted


def land(objects: Any) -> None:
    """So much data that a release is trained."""
    load_specs()
    importlib.import_module(f"mlops_assets.defs.{SLUG}.sample").land(objects, DAYS)


def requests(unusual: float = 0.0) -> list[dict[str, Any]]:
    """Orders as they are asked about, a share of them for an unusual amount."""
    load_specs()
    sample, rng = importlib.import_module(f"mlops_assets.defs.{SLUG}.sample"), np.random.default_rng(0)
    orders = pd.concat([sample.orders(date(2024, 1, 1) + timedelta(days=DAYS + n)) for n in range(5)])
    rows = orders[["items", "amount", "discount", "channel"]].astype(object)
    rows = rows.where(rows.notna(), None)
    asked = []
    for place, inputs in enumerate(rows.to_dict("records")):
        inputs |= {"customer_return_rate": float(rng.random() * 0.6), "customer_outcomes": int(rng.integers(1, 9))}
        inputs["items"] = int(inputs["items"])
        if rng.random() < unusual:
            inputs["amount"] = UNUSUAL
        asked.append({"unit": f"customer-{place}", "inputs": inputs})
    return asked
