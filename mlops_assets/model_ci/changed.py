"""Which models a commit changes, from the files that it touches."""

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlops_assets.core.errors import NotFound
from mlops_assets.core.model_spec import ModelSpec

ROOT = Path(__file__).resolve().parents[2]


def changed_models(paths: Iterable[str], specs: Sequence[ModelSpec]) -> list[str]:
    """The names of the models whose own files are among ``paths``: their folder under ``defs/``, and the module of their features.

    What all models share is not a change of a model; its own tests look after it.
    """
    touched = set(paths)
    return [
        spec.name
        for spec in specs
        if _feature_module(spec) in touched or any(path.startswith(f"mlops_assets/defs/{spec.slug}/") for path in touched)
    ]


def files_since(commit: str, root: Path = ROOT) -> list[str]:
    """The files that differ from a commit, in commits since and in the working tree, new ones included.

    Raises:
        NotFound: if git does not know the commit.
    """
    return [*git(root, "diff", "--name-only", commit).split(), *git(root, "ls-files", "--others", "--exclude-standard").split()]


def merge_base(branch: str, root: Path = ROOT) -> str:
    """The commit at which the present one left a branch; :class:`NotFound` if git knows no such branch."""
    return git(root, "merge-base", branch, "HEAD").strip()


def model_tests(spec: ModelSpec, root: Path = ROOT) -> list[Path]:
    """The test files that import the model's own modules, those that start a whole stack excepted."""
    named = (f"mlops_assets.defs.{spec.slug}", spec.features.transform.partition(":")[0])
    files = (path for path in sorted((root / "tests").rglob("test_*.py")) if "e2e" not in path.parts)
    return [path for path in files if any(f"{verb} {module}" in path.read_text() for verb in ("from", "import") for module in named)]


def git(root: Path, *arguments: str) -> str:
    """What git prints; :class:`NotFound` with its message if it fails."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotFound(f"git {' '.join(arguments)}: {done.stderr.strip()}: in CI, fetch the whole history (fetch-depth: 0)")
    return done.stdout


def _feature_module(spec: ModelSpec) -> str:
    return spec.features.transform.partition(":")[0].replace(".", "/") + ".py"
