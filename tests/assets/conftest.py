"""A scaffolded model whose import paths lead to it, for as long as the tests of this folder run."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import feature_repo
import mlops_assets.defs
from mlops_assets.scaffold import new_model
from tests.assets.gifts import NAME, SLUG, Gifts, gifts


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gifts]:
    """The model ``gift-returns`` and its made-up orders."""
    root: Path = tmp_path_factory.mktemp("project")
    (root / "mlops_assets" / "defs").mkdir(parents=True)
    (root / "feature_repo").mkdir()
    new_model(NAME, root)
    with pytest.MonkeyPatch.context() as patch:
        # Pictures take ten times as long as what they show.
        patch.setattr("mlops_assets.assets.release.trajectory_plot", lambda policy, release: "")
        patch.setattr(mlops_assets.defs, "__path__", [*mlops_assets.defs.__path__, str(root / "mlops_assets" / "defs")])
        patch.setattr(feature_repo, "__path__", [*feature_repo.__path__, str(root / "feature_repo")])
        importlib.invalidate_caches()
        yield gifts(root)
    for module in [name for name in sys.modules if SLUG in name]:
        del sys.modules[module]
