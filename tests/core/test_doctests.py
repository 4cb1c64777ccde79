"""The examples in the docstrings hold."""

import doctest
import importlib
import pkgutil

import pytest

from mlops_assets import core

COMPUTING = (
    "baseline",
    "bootstrap",
    "calibration",
    "certificate",
    "comparison",
    "distances",
    "drift",
    "drill",
    "evidence",
    "experiment_bayes",
    "experiment_design",
    "experiment_groups",
    "experiment_power",
    "experiment_samples",
    "experiment_sequential",
    "floors",
    "freshness",
    "grid",
    "guardrails",
    "hourly",
    "ledger",
    "metrics",
    "outcomes",
    "packing",
    "performance",
    "pii",
    "policy",
    "profile",
    "routing",
    "sequential",
    "signature",
    "slo",
    "verdict",
)
"""The modules of ``core`` whose figures a reader can check."""

MODULES = [info.name for info in pkgutil.iter_modules(core.__path__, "mlops_assets.core.")]


@pytest.mark.parametrize("name", MODULES)
def test_every_example_in_a_docstring_holds(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_the_modules_that_compute_have_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    with_examples = {name for name in MODULES if any(test.examples for test in finder.find(importlib.import_module(name)))}
    assert {f"mlops_assets.core.{name}" for name in COMPUTING} <= with_examples
