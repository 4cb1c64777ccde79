"""What a ``defs.yaml`` may not say, and what its author is told. A scaffolded definition is the one that is edited."""

from copy import deepcopy
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from mlops_assets.components.attributes import ModelAttributes, build
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.monitoring_spec import Drift
from mlops_assets.scaffold import new_model

REMOVED = object()
EVENTS = ("data", "datasets", "events")
LABELS = ("data", "datasets", "labels")
STEP = ("canary", "steps", 1)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("project")
    for folder in ("mlops_assets/defs", "feature_repo"):
        (root / folder).mkdir(parents=True)
    new_model("shop-returns", root)
    return yaml.safe_load((root / "mlops_assets/defs/shop_returns/defs.yaml").read_text())["attributes"]


def edited(document: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A copy with one value set, or removed."""
    copy: Any = deepcopy(document)
    parent = copy
    for part in path[:-1]:
        parent = parent[part]
    if value is REMOVED:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return copy


def parse(document: dict[str, Any]) -> ModelSpec:
    return build(ModelSpec, ModelAttributes.model_validate(document))


UNKNOWN = {
    "a typo": (("lable",), {}, "there is no field 'lable': did you mean 'label'? There are name, description, owners"),
    "a typo in a section": (("label", "horison"), "3d", "there is no field 'horison': did you mean 'horizon'? There are column, horizon"),
    "a typo in a list": ((*STEP, "wieght"), 5, "there is no field 'wieght': did you mean 'weight'?"),
    "a typo in a column": ((*EVENTS, "columns", "amount", "minimun"), 0, "did you mean 'minimum'?"),
    "a field of nobody": (("gates", "colour"), "red", "there is no field 'colour': remove it. There are floor, default, min_uplift"),
    "a field that is no text": (("drift", 7), 1, "there is no field 7"),
    "a section in the wrong place": (("features", "trainer"), "a.b:c", "there is no field 'trainer'"),
}

DURATIONS = {
    "words": (("label", "horizon"), "3 days", "horizon: got '3 days', expected a duration such as 90s, 30m, 24h, 14d or 2w"),
    "a bare number": (("training", "window"), 60, "window: got 60, expected a duration such as"),
    "a bare number as text": (("training", "window"), "60", "window: got '60', expected a duration such as"),
    "a yes": (("training", "window"), True, "window: got True, expected a duration"),
    "nothing": (("holdout", "window"), None, "window: got None, expected a duration"),
    "a negative one": (("label", "horizon"), "-3d", "horizon: got '-3d', expected a duration"),
    "an unknown unit": (("data", "freshness"), "2y", "freshness: got '2y', expected a duration"),
    "an ISO 8601 one": (("drift", "every"), "PT1H", "every: got 'PT1H', expected a duration"),
    "one in a list": ((*STEP, "bake"), "soon", "bake: got 'soon', expected a duration"),
    "one beyond the calendar": (("canary", "deadline"), "99999999999d", "deadline: '99999999999d' is longer than the calendar"),
}

VALUES = {
    "a required section is missing": (("canary",), REMOVED, "canary\n  Field required"),
    "a required field is missing": (("gates", "floor"), REMOVED, "gates.floor\n  Field required"),
    "a name with capitals": (("name",), "Shop-Returns", "expected lower-case words joined by hyphens, such as 'fraud-detector'"),
    "a name that YAML takes for a yes": (("name",), True, "Input should be a valid string"),
    "one owner, not in a list": (("owners",), "team:shop", "owners\n  Input should be a valid tuple"),
    "a date that does not exist": (("data", "start"), "2024-13-01", "data.start\n  Input should be a valid date"),
    "an unknown column type": ((*EVENTS, "columns", "amount", "type"), "number", "'float', 'integer', 'string', 'boolean' or 'timestamp'"),
    "an unknown gate": (("gates", "default"), "better", "'improve', 'observed' or 'refresh'"),
    "a category that YAML takes for a no": (
        ("features", "inputs", 3, "categories", 0),
        False,
        "categories.0\n  Input should be a valid str",
    ),
    "a feature without braces": (("features", "inputs", 0), "items", "features.inputs.0\n  Input should be a valid dictionary"),
    "a limit that is no number": (("canary", "guardrails", "max_error_rate"), float("nan"), "Input should be a finite number"),
    "a limit without end": (("gates", "margin"), float("inf"), "gates.margin\n  Input should be a finite number"),
    "a threshold of one": (("label", "decision_threshold"), 1, "got 1.0, expected between 0 and 1"),
    "a file path for code": (("training", "trainer"), "training.py", "expected an import path such as 'my_package.my_module:my_function'"),
}

CONTRADICTIONS = {
    "no labels": (LABELS, REMOVED, "data.datasets: 'labels' is missing (got events): add it"),
    "a key that is no column": ((*EVENTS, "key"), ["id"], "column 'id' is named by key, time or known_at but is not under columns"),
    "a time that is no timestamp": (
        (*EVENTS, "time"),
        "amount",
        "column 'amount' is used as a time: give it type 'timestamp', not 'float'",
    ),
    "labels with another key": ((*LABELS, "key"), ["event_time"], "events and labels must have the same key"),
    "a key of nothing": ((*EVENTS, "key"), [], "key: list at least one column that identifies a row"),
    "bounds for a text": ((*EVENTS, "columns", "channel", "maximum"), 3, "minimum and maximum are for numbers, this column is a string"),
    "bounds that cross": ((*EVENTS, "columns", "items", "minimum"), 5000, "minimum 5000.0 is above maximum 1000.0: swap them"),
    "a label that is no column": (("label", "column"), "bought", "label.column: 'bought' is not a column of labels"),
    "the label as a feature": (("features", "inputs", 0, "name"), "returned", "'returned' is the label: a model that sees its label"),
    "a feature twice": (("features", "inputs", 0, "name"), "amount", "features.inputs: amount stands there twice: remove one"),
    "a unit that is no column": (("features", "unit"), "card", "features.unit: 'card' is not a column of events"),
    "an entity that is no column": (("features", "entities"), ["card"], "features.entities: card is not a column of events"),
    "a slice that is no column": (("gates", "slices", 0, "column"), "country", "gates.slices: country is not a column of events"),
    "drift of no feature ignored": (("drift", "ignore"), ["weather"], "drift.ignore: weather is not an input feature"),
    "live and shadow in one": ((*STEP, "mirror"), 50, "give it either a weight (live traffic) or a mirror (shadow), not both"),
    "neither live nor shadow": ((*STEP, "weight"), 0, "canary step 'canary-10': give it either a weight"),
    "a step without evidence": ((*STEP, "min_requests"), 0, "min_requests must be at least 1; no data is never a pass"),
    "a step without time": ((*STEP, "bake"), "0s", "canary step 'canary-10': bake must be longer than nothing"),
    "weights that fall": ((*STEP, "weight"), 51, "canary.steps: weights must not fall, got [0, 51, 50]: order the steps"),
    "two steps of one name": ((*STEP, "name"), "shadow", "canary.steps: names must differ"),
    "no steps": (("canary", "steps"), [], "canary.steps: at least one step"),
    "a deadline before the bake is over": (("canary", "deadline"), "30m", "is not longer than the longest bake"),
    "training on no time": (("training", "window"), "0d", "training.window: must be longer than nothing"),
}

WRONG = UNKNOWN | DURATIONS | VALUES | CONTRADICTIONS


@pytest.mark.parametrize(("path", "value", "told"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_refused_with_words_that_help(good: dict[str, Any], path: tuple[str | int, ...], value: Any, told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ModelAttributes.model_validate(edited(good, path, value))
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("1.5h", timedelta(minutes=90)),
        ("24 h", timedelta(days=1)),
        ("14d", timedelta(days=14)),
        ("2w", timedelta(days=14)),
    ],
)
def test_durations_are_read_as_people_write_them(good: dict[str, Any], text: str, expected: timedelta) -> None:
    assert parse(edited(good, ("data", "freshness"), text)).data.freshness == expected


@pytest.mark.parametrize(("path", "value", "told"), (UNKNOWN | DURATIONS).values(), ids=(UNKNOWN | DURATIONS).keys())
def test_typos_and_bad_durations_break_the_schema_that_dg_check_yaml_goes_by(
    good: dict[str, Any], path: tuple[str | int, ...], value: Any, told: str
) -> None:
    written = {**edited(good, path, value), "data": {**edited(good, path, value)["data"], "start": "2024-01-01"}}
    valid = Draft202012Validator(ModelAttributes.model_json_schema()).is_valid(written)
    assert valid == ("longer than the calendar" in told)


def test_the_schema_that_dg_check_yaml_goes_by_accepts_a_good_definition(good: dict[str, Any]) -> None:
    written = {**good, "data": {**good["data"], "start": "2024-01-01"}}
    assert list(Draft202012Validator(ModelAttributes.model_json_schema()).iter_errors(written)) == []


def test_what_is_left_out_has_the_defaults_of_the_spec(good: dict[str, Any]) -> None:
    assert parse(edited(good, ("drift",), REMOVED)).drift == Drift()
    assert parse(edited(good, ("canary", "steps", 0, "approval"), True)).canary.steps[0].approval
    assert parse(good).data.end is None


def test_a_good_definition_becomes_typed_values_all_the_way_down(good: dict[str, Any]) -> None:
    spec = parse(good)
    assert spec.data.start == date(2024, 1, 1)
    assert spec.data.datasets["events"].columns["discount"].max_null_rate == 0.5
    assert spec.canary.steps[2].bake == timedelta(minutes=30)
    assert spec.features.inputs[3].categories == ("web", "app", "phone")
    assert isinstance(hash(spec.canary), int)


def test_the_real_model_s_definition_is_good() -> None:
    import mlops_assets

    folder = Path(mlops_assets.__file__).parent / "defs" / "flight_delay"
    document = yaml.safe_load((folder / "defs.yaml").read_text())["attributes"]
    assert parse(document).name == "flight-delay"


def test_the_resources_of_a_training_are_read_and_their_typos_refused(good: dict[str, Any]) -> None:
    document = deepcopy(good)
    document["training"]["resources"] = {"cpu": "2", "memory": "4Gi", "gpu": 1}
    spec = build(ModelSpec, ModelAttributes.model_validate(document))
    assert (spec.training.resources.cpu, spec.training.resources.gpu) == ("2", 1)
    document["training"]["resources"] = {"memroy": "4Gi"}
    with pytest.raises(ValueError, match="there is no field 'memroy': did you mean 'memory'"):
        ModelAttributes.model_validate(document)
    document["training"]["resources"] = {"memory": "4GB"}
    with pytest.raises(ValueError, match="training.resources.memory: got '4GB', expected memory such as '256Mi'"):
        ModelAttributes.model_validate(document)


def test_retention_is_read_and_looks_back_as_far_as_what_is_watched(good: dict[str, Any]) -> None:
    document = deepcopy(good)
    document["retention"] = {"predictions": "30d"}
    assert build(ModelSpec, ModelAttributes.model_validate(document)).retention.predictions == timedelta(days=30)
    document["retention"] = {"monitoring": "2d"}
    with pytest.raises(ValueError, match="retention.monitoring: got 2 days, 0:00:00, expected at least"):
        ModelAttributes.model_validate(document)
