"""``mlops experiment`` as a person uses it: size, declare, analyse."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mlops_assets.cli import app

DOCUMENT = """
design:
  name: checkout-v7
  success: {name: conversion, kind: proportion}
  units: 40000
  cycle: 7d
  guardrails:
    - {name: latency_ms, kind: mean, margin: 5}
results:
  started_at: 2026-11-02T00:00:00+00:00
  until: 2026-11-10T00:00:00+00:00
  control:
    units: 15010
    metrics: {conversion: {successes: 1500}, latency_ms: {mean: 101, sd: 40}}
  treatment:
    units: 15100
    metrics: {conversion: {successes: 1750}, latency_ms: {mean: 102, sd: 40}}
"""


def run(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["experiment", *(str(word) for word in words)], env={"COLUMNS": "300"})
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An experiment that was declared before it was started."""
    path = tmp_path / "checkout.yaml"
    path.write_text(DOCUMENT)
    code, declared, _ = run("declare", path)
    assert code == 0
    path.write_text(f"{DOCUMENT}declared: {declared}")
    return path


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (("proportion", "--baseline", 0.1, "--effect", 0.02), "control 3841, treatment 3841, together 7682 units"),
        (("mean", "--sd", 1, "--effect", 0.5), "control 64, treatment 64"),
        (("mean", "--sd", 1, "--effect", 0.5, "--correlation", 0.6), "control 42, treatment 42"),
        (("ratio", "--effect", 0.5, "--numerator", 2, 1, "--denominator", 1, 0, "--correlation", 0), "control 63, treatment 63"),
    ],
)
def test_a_size_is_told_for_one_look_and_for_many(words, needed):
    code, told, _ = run("size", *words)
    assert code == 0
    assert needed in told
    assert "1.02 times as many at the last look" in told
    assert "1.91 times as many are enough" in told


def test_an_experiment_is_declared_and_answered(file):
    code, told, _ = run("analyse", file)
    assert code == 0
    assert "checkout-v7: ship at 0.7527 of the planned information: conversion is better by +0.01596" in told
    assert "latency_ms is +1 worse" in told


def test_a_json_file_says_the_same(file):
    as_json = file.with_suffix(".json")
    as_json.write_text(json.dumps(yaml.safe_load(file.read_text()), default=str))
    assert run("analyse", as_json) == run("analyse", file)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("units: 40000", "units: 20000", "declared before the start was"),
        ("declared: ", "declared: a", "analyse what was declared"),
        ("margin: 5", "magrin: 5", "did you mean 'margin'"),
        ("kind: proportion", "kind: share", "design.success.kind"),
        ("cycle: 7d", "cycle: 7", "expected a duration such as"),
        ("successes: 1500", "sucesses: 1500", "did you mean 'successes'"),
        ("successes: 1500", "successes: many", "results.control.metrics.conversion.successes"),
        ("successes: 1500", "successes: 99999", "got 99999 of 15010 units"),
        ("units: 15010", "units: -1", "units: got -1"),
        ("until: 2026-11-10", "until: 2026-11-01", "is before started_at"),
        ("sd: 40", "sd: .nan", "finite number"),
        ("results:", "result:", "there is no section result, expected design, declared, results"),
        ("design:", "desing:", "there is no section 'design'"),
        ("name: checkout-v7", "name: [", "cannot be read"),
    ],
)
def test_a_file_that_is_wrong_is_told_what_is_wrong_with_it(file, old, new, told):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    code, _, error = run("analyse", file)
    assert code == 1
    assert told in error


def test_without_results_there_is_nothing_to_analyse(file):
    document = yaml.safe_load(file.read_text())
    del document["results"]
    file.write_text(yaml.safe_dump(document))
    assert "add what was counted" in run("analyse", file)[2]
    assert "cannot be read" in run("analyse", file.with_name("none.yaml"))[2]


def test_a_size_that_cannot_be_is_told():
    code, _, error = run("size", "proportion", "--baseline", 0.1, "--effect", 0)
    assert (code, error.startswith("error: effect: got 0.0, expected a difference worth finding")) == (1, True)
    assert "finite" in run("size", "mean", "--sd", "nan", "--effect", 1)[2]
