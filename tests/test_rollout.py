"""What the prediction log becomes of a canary's evidence."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from mlops_assets.core.evidence import SCORE_BINS, UNIT_SIGNS, Flips
from mlops_assets.core.policy import Challenger, Mirror, Policy
from mlops_assets.core.sequential import design_effect
from mlops_assets.rollout import logged_of, unit_signs
from tests.core.test_canary import NOW

LIVE = Policy("m", 3, ("v1",), Challenger("v2", 1, 1, "canary-5", NOW))
SHADOW = Policy("m", 3, ("v1",), Challenger("v2", 1, 0, "shadow", NOW), mirror=Mirror("v2", 100))


def rows(*answers: tuple[str, str, str, float]) -> pd.DataFrame:
    frame = pd.DataFrame(answers, columns=["request_id", "release", "role", "score"])
    return frame.assign(unit=frame["request_id"], decision=frame["score"] >= 0.5)


ANSWERS = rows(
    ("a", "v1", "live", 0.1),
    ("a", "v2", "shadow", 0.7),
    ("b", "v1", "live", 0.6),
    ("b", "v2", "shadow", 0.9),
    ("c", "v1", "live", 0.99),
    ("d", "v2", "live", 1.0),
    ("e", "v0", "live", 0.2),
)


def test_scores_are_counted_by_release_and_in_shadow_those_of_the_copies():
    shadow, live = logged_of(SHADOW, ANSWERS, "7"), logged_of(LIVE, ANSWERS, "7")
    assert {release: sum(counts) for release, counts in shadow.scores.items()} == {"v1": 3, "v2": 2}
    assert {release: sum(counts) for release, counts in live.scores.items()} == {"v1": 3, "v2": 1}
    assert live.scores["v2"][SCORE_BINS - 1] == 1
    assert live.position == "7"


def test_in_shadow_decisions_are_compared_request_by_request():
    assert logged_of(SHADOW, ANSWERS, "").flips == {"v2": Flips(2, 1)}
    assert logged_of(LIVE, ANSWERS, "").flips == {}


def test_an_empty_log_adds_nothing():
    logged = logged_of(SHADOW, ANSWERS.head(0), "")
    assert (logged.scores, logged.units, logged.flips) == ({}, {}, {})


def test_the_signs_of_units_add_up_over_looks_and_tell_how_many_requests_they_send():
    units = pd.Series([f"unit-{n % 500}" for n in range(10_000)])
    whole = unit_signs(units)
    parts = [unit_signs(units[:3000]), unit_signs(units[3000:])]
    assert whole == tuple(np.sum(parts, axis=0))
    assert len(whole) == UNIT_SIGNS
    # 64 signs know the sum of squares to sqrt(2 / 64) = 18 %; four of those are allowed.
    assert design_effect(whole, len(units), 1.0) == pytest.approx(20, rel=0.72)
    assert design_effect(unit_signs(pd.Series(range(10_000)).astype(str)), 10_000, 1.0) < 1.8


def test_a_rollback_imports_nothing_heavy():
    """``mlops rollback`` has a second, and pandas alone takes a third of one (ADR 8)."""
    done = "import sys, mlops_assets.cli, mlops_assets.operations; from mlops_assets.adapters.local import local_platform; local_platform()"
    elsewhere = {**os.environ, "MLOPS_S3_URL": "http://127.0.0.1:1"}  # no stack has to be here
    command = [sys.executable, "-c", f"{done}; print(*sys.modules)"]
    told = subprocess.run(command, env=elsewhere, capture_output=True, text=True, check=True)
    heavy = {"numpy", "pandas", "scipy", "pydantic", "dagster", "mlflow", "feast", "boto3", "pyarrow", "matplotlib", "httpx"}
    unasked = {"mlops_assets.core.model_spec", "mlops_assets.adapters.mlflow", "mlops_assets.adapters.prediction_log"}
    assert (heavy | unasked) & set(told.stdout.split()) == set()
