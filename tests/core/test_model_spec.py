from dataclasses import replace
from datetime import date, timedelta

import pytest

from mlops_assets.core.canary_spec import Canary, Guardrails, Step
from mlops_assets.core.data_spec import Column, Data, Dataset, Label
from mlops_assets.core.errors import SpecError
from mlops_assets.core.feature_spec import Feature, Features
from mlops_assets.core.gate_spec import Gates, Slice
from mlops_assets.core.model_spec import Holdout, ModelSpec, Training
from mlops_assets.core.monitoring_spec import Drift, Retrain
from mlops_assets.core.serving_spec import Pods, Serving

DAY, HOUR, NOTHING = timedelta(days=1), timedelta(hours=1), timedelta(0)
TIME, TEXT, NUMBER = Column("timestamp"), Column("string"), Column("float")
EVENTS = Dataset(("id",), "at", {"id": TEXT, "at": TIME, "card": TEXT, "country": TEXT})
MARKED = Dataset(("id",), "at", {**EVENTS.columns, "card": Column("string", pii="hash"), "age": Column("float", pii="drop")})
LABELS = Dataset(("id",), "at", {"id": TEXT, "at": TIME, "fraud": Column("integer")})


def data(**changed) -> Data:
    return Data(**{"start": date(2026, 1, 1), "datasets": {"events": EVENTS, "labels": LABELS}} | changed)


def features(**changed) -> Features:
    made = {"service": "s", "entities": ("card",), "transform": "my.module:views", "inputs": (Feature("amount"),), "unit": "card"}
    return Features(**made | changed)


def canary(*steps: Step, **changed) -> Canary:
    return Canary(**{"steps": steps or (Step("canary-5", HOUR, weight=5),), "deadline": DAY, "first_bake": HOUR} | changed)


def spec(**changed) -> ModelSpec:
    made = {
        "name": "fraud-detector",
        "description": "",
        "owners": (),
        "data": data(),
        "label": Label("fraud", DAY),
        "features": features(),
        "training": Training("my.module:train", 60 * DAY),
        "holdout": Holdout(7 * DAY),
        "gates": Gates(0.6),
        "canary": canary(),
    }
    return ModelSpec(**made | changed)


def test_a_sound_spec_is_accepted_and_has_a_slug():
    assert spec().slug == "fraud_detector"


def test_a_plan_at_another_pace_has_the_same_steps_sooner():
    plan = canary(Step("shadow", HOUR, mirror=100), Step("half", 2 * HOUR, weight=50)).at_pace(3600)
    assert [(step.name, step.weight, step.mirror, step.bake.total_seconds()) for step in plan.steps] == [
        ("shadow", 0, 100, 1),
        ("half", 50, 0, 2),
    ]
    assert (plan.deadline.total_seconds(), plan.first_bake.total_seconds(), plan.warm_for.total_seconds()) == (24, 1, 1)


def marked(**changed) -> ModelSpec:
    """One whose events have marked columns."""
    return spec(data=data(datasets={"events": MARKED, "labels": LABELS}), features=features(**changed))


def test_a_marked_column_of_events_marks_whatever_has_its_name():
    inputs = (Feature("amount"), Feature("age"), Feature("shop", ("a", "b"), pii="hash"))
    found = marked(inputs=inputs)
    assert found.pii == {"card": "hash", "age": "drop", "shop": "hash"}
    assert marked().pii == {"card": "hash", "age": "drop"}  # a request may say any column of events
    assert found.watched == ("amount", "shop")  # what is dropped can be watched by nobody
    assert spec().pii == {}


SECRET_LABELS = {**LABELS.columns, "fraud": Column("integer", pii="drop")}
CONTRADICTIONS = [
    (lambda: Column("string", minimum=0), "minimum and maximum are for numbers, this column is a string"),
    (lambda: Column("float", minimum=2, maximum=1), "minimum 2 is above maximum 1: swap them"),
    (lambda: Column("float", max_null_rate=1.5), "max_null_rate: got 1.5"),
    (lambda: Dataset(("id",), "at", {"at": TIME}), "column 'id' is named by key, time or known_at but is not under columns"),
    (lambda: Dataset(("id",), "at", {"id": TEXT}), "column 'at' is named by key, time or known_at"),
    (lambda: Dataset(("id",), "at", {"id": TEXT, "at": TIME}, known_at="seen"), "column 'seen' is named by"),
    (lambda: Dataset(("id",), "at", {"id": TEXT, "at": TEXT}), "give it type 'timestamp', not 'string'"),
    (lambda: Dataset((), "at", {"at": TIME}), "key: list at least one column"),
    (lambda: data(datasets={"events": EVENTS}), "'labels' is missing"),
    (lambda: data(datasets={}), "'events' is missing .got none.: add it"),
    (lambda: data(datasets={"events": EVENTS, "labels": LABELS, "my-data": EVENTS}), "'my-data' must be a plain word"),
    (
        lambda: data(datasets={"events": EVENTS, "labels": Dataset(("fraud",), "at", LABELS.columns)}),
        "events and labels must have the same key",
    ),
    (lambda: data(max_quarantined_share=2), "max_quarantined_share: got 2"),
    (lambda: Label("fraud", -DAY), "a label cannot be known before its event"),
    (lambda: Label("fraud", DAY, 1.0), "decision_threshold: got 1.0"),
    (lambda: Feature("country", ("US", "DE", "US")), "'country' has the category US twice"),
    (lambda: features(transform="my.module"), "features.transform: got 'my.module', expected an import path"),
    (lambda: features(inputs=()), "name at least one feature"),
    (lambda: features(inputs=(Feature("amount"), Feature("amount"))), "amount stands there twice"),
    (lambda: Training("no path", DAY), "training.trainer: got 'no path'"),
    (lambda: Training("my.module:train", NOTHING), "training.window: must be longer than nothing"),
    (lambda: Holdout(NOTHING), "holdout.window: must be longer than nothing"),
    (lambda: Holdout(DAY, 0), "holdout.min_positives: must be at least 1"),
    (lambda: Slice("country", "US", 60), "country=US has floor 60, expected an AUC of 0 to 1"),
    (lambda: Gates(70), "gates.floor: got 70"),
    (lambda: Gates(0.7, confidence=95), "gates.confidence: got 95"),
    (lambda: Gates(0.7, min_uplift=-0.01), "use policy 'refresh' with a margin"),
    (lambda: Gates(0.7, margin=-0.01), "gates.margin: must not be negative"),
    (lambda: Step("both", HOUR, weight=5, mirror=5), "either a weight .* or a mirror"),
    (lambda: Step("none", HOUR), "not both and not none"),
    (lambda: Step("more", HOUR, weight=101), "weight and mirror are % of 0 to 100"),
    (lambda: Step("short", NOTHING, weight=5), "bake must be longer than nothing"),
    (lambda: Step("blind", HOUR, weight=5, min_requests=0), "no data is never a pass"),
    (lambda: Guardrails(max_error_rate=5), "guardrails.max_error_rate: got 5"),
    (lambda: Guardrails(max_error_increase=-0.1), "guardrails.max_error_increase: got -0.1"),
    (lambda: Guardrails(max_latency_ratio=0), "guardrails.max_latency_ratio: got 0"),
    (lambda: Guardrails(latency_quantile=95), "guardrails.latency_quantile: got 95, expected between 0 and 1"),
    (lambda: Guardrails(latency_floor_ms=-1), "guardrails.latency_floor_ms: got -1"),
    (lambda: Guardrails(max_error_increase=0), "guardrails.max_error_increase: got 0, expected a share above 0"),
    (lambda: Guardrails(max_score_shift=0), "guardrails.max_score_shift: got 0"),
    (lambda: Guardrails(max_flips=2), "guardrails.max_flips: got 2"),
    (lambda: Guardrails(max_brier_increase=0), "guardrails.max_brier_increase: got 0"),
    (lambda: Guardrails(latency_budget_ms=90), "latency_budget_ms: got 90, expected a bound of the latency buckets: 1, 2, 3, 5, 7.5"),
    (lambda: Guardrails(max_share_mismatch=0), "guardrails.max_share_mismatch: got 0"),
    (lambda: Guardrails(unit_correlation=2), "guardrails.unit_correlation: got 2"),
    (lambda: Guardrails(alpha=0), "guardrails.alpha: got 0"),
    (lambda: Guardrails(beta=0.5), "guardrails.beta: got 0.5"),
    (lambda: Canary((), DAY, HOUR), "canary.steps: at least one step"),
    (lambda: canary(Step("a", HOUR, weight=25), Step("b", HOUR, weight=5)), r"weights must not fall, got \[25, 5\]"),
    (lambda: canary(Step("a", HOUR, weight=5), Step("b", HOUR, mirror=100)), "weights must not fall"),
    (lambda: canary(Step("a", HOUR, weight=75)), "weights up to 50"),
    (lambda: canary(Step("a", HOUR, weight=5), Step("a", HOUR, weight=25)), "names must differ"),
    (lambda: canary(deadline=HOUR), "is not longer than the longest bake"),
    (lambda: canary(first_bake=2 * DAY), "is not longer than the longest bake"),
    (lambda: canary(first_bake=NOTHING), "first_bake: must be longer than nothing"),
    (lambda: canary(warm_for=-HOUR), "not a negative one"),
    (lambda: Drift(window=NOTHING), "drift.window: must be longer than nothing"),
    (lambda: Drift(max_psi=0), "drift.max_psi: got 0"),
    (lambda: Drift(min_rows=0), "drift.min_rows: must be at least 1"),
    (lambda: Retrain(after_days=0), "a positive number of days"),
    (lambda: spec(name="Fraud Detector"), "name: got 'Fraud Detector', expected lower-case words joined by hyphens"),
    (lambda: spec(name="fraud--detector"), "name: got 'fraud--detector'"),
    (lambda: spec(label=Label("chargeback", DAY)), "'chargeback' is not a column of labels .id, at, fraud."),
    (lambda: spec(features=features(unit="customer")), "features.unit: 'customer' is not a column of events"),
    (lambda: spec(features=features(entities=("card", "shop"))), "features.entities: shop is not a column of events"),
    (lambda: spec(features=features(inputs=(Feature("fraud"),))), "a model that sees its label learns nothing"),
    (lambda: spec(drift=Drift(ignore=("height",))), "drift.ignore: height is not an input feature .amount."),
    (lambda: spec(gates=Gates(0.6, slices=(Slice("shop", "x", 0.5),))), "gates.slices: shop is not a column of events"),
    (lambda: Dataset(("id",), "at", {"id": TEXT, "at": Column("timestamp", pii="hash")}), "'at' is used as a time and marked pii"),
    (lambda: marked(inputs=(Feature("card", ("a",), pii="drop"),)), "'card' is marked pii: drop, and the column of events pii: hash"),
    (lambda: marked(inputs=(Feature("amount", pii="hash"),)), "'amount' is a number and marked pii: hash: .* write pii: drop"),
    (lambda: marked(inputs=(Feature("card"),)), "'card' is a number and marked pii: hash"),
    (lambda: marked(unit="age"), "'age' is marked pii: drop, but answers are joined with labels by it: write pii: hash"),
    (
        lambda: spec(data=data(datasets={"events": MARKED, "labels": LABELS}), gates=Gates(0.6, slices=(Slice("card", "x", 0.5),))),
        "gates.slices: card is marked pii",
    ),
    (
        lambda: spec(data=data(datasets={"events": EVENTS, "labels": replace(LABELS, columns=SECRET_LABELS)})),
        "label.column: 'fraud' is marked pii",
    ),
    (lambda: Serving(log_durability="fsync"), "serving.log_durability: got 'fsync', expected write or fdatasync"),
    (lambda: Serving(on_log_full="drop"), "serving.on_log_full: got 'drop', expected refuse or count"),
    (lambda: Pods(replicas=0), "serving.pods.replicas: got 0, expected at least 1"),
    (lambda: Pods(replicas=4, max_replicas=2), "serving.pods.max_replicas: got 2, expected at least the 4 of replicas"),
    (lambda: Pods(cpu="0"), "serving.pods.cpu: got '0', expected cores such as '2', '0.5' or '250m'"),
    (lambda: Pods(cpu_limit="2 cores"), "serving.pods.cpu_limit: got '2 cores', expected cores such as '2', '0.5' or '250m'"),
    (lambda: Pods(memory="256M"), "serving.pods.memory: got '256M', expected memory such as '256Mi' or '2Gi'"),
    (lambda: Pods(memory_limit="0Mi"), "serving.pods.memory_limit: got '0Mi', expected memory such as '256Mi' or '2Gi'"),
    (lambda: Pods(cpu_percent=0), "serving.pods.cpu_percent: got 0, expected 1 to 100"),
    (lambda: Pods(in_flight=0), "serving.pods.in_flight: got 0, expected at least 1"),
]


@pytest.mark.parametrize(("make", "message"), CONTRADICTIONS, ids=[message[:40] for _, message in CONTRADICTIONS])
def test_a_contradiction_is_refused_with_what_to_write_instead(make, message):
    with pytest.raises(SpecError, match=message):
        make()


@pytest.mark.parametrize("timeout", [NOTHING, timedelta(seconds=10), HOUR], ids=["none", "the gateway's own", "an hour"])
def test_a_deadline_lies_below_what_the_gateway_waits(timeout):
    with pytest.raises(SpecError, match=r"serving.timeout: got \d+ s, expected more than 0 and less than the 10 s"):
        Serving(timeout=timeout)
