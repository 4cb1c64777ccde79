"""``python -m mlops_assets.model_ci [MODEL]``: exit code 0 if every step passed, 1 if one did not, 2 if it could not begin."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from mlops_assets.adapters.local import local_platform
from mlops_assets.adapters.processes import can_listen
from mlops_assets.core.errors import MlopsError, NotFound
from mlops_assets.core.gate_spec import GatePolicy
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.definitions import load_specs
from mlops_assets.model_ci.changed import ROOT, changed_models, files_since, git, merge_base
from mlops_assets.model_ci.pipeline import ModelCi
from mlops_assets.ports import Platform
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack

FOREIGN = ("MLOPS_", "MLFLOW_", "DAGSTER_", "AWS_PROFILE", "AWS_SESSION_TOKEN")
"""How the names begin by which an environment names production: a stack of its own must see none of it."""

SHARED = ("MLOPS_PII_KEY", "MLOPS_COMMIT")
"""Of those what is true of both."""

BLOCKS = range(14_000, 22_000, 500)
"""Where a free block of ports is looked for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the CI of the models that were asked for, else of those that the change touches."""
    told = _parser().parse_args(arguments)
    for name in _foreign():
        if os.environ[name] == "":  # as CI writes a variable that nobody set
            del os.environ[name]
    try:
        base = merge_base(told.against) if told.against else _base()
        specs = _chosen(told.model, base)
    except MlopsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not specs:
        print(f"no model's own files differ from {base[:12]}: nothing to train")
        return 0
    production = _production()
    for name in _foreign():
        del os.environ[name]
    passed = [_run(spec, base, told, production) for spec in specs]  # each, whatever became of the others
    return 0 if all(passed) else 1


def _foreign() -> list[str]:
    return [name for name in os.environ if name.startswith(FOREIGN) and name not in SHARED]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mlops_assets.model_ci", description=__doc__)
    parser.add_argument("model", nargs="?", default="", help="by default each model whose own files differ from the base")
    parser.add_argument("--against", default="", help="branch or commit that the change is based on; by default main, else the parent")
    parser.add_argument(
        "--gate", default="refresh", choices=get_args(GatePolicy), help="refresh: no worse than the champion; improve: better"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "model-ci", help="the folder for summaries and stacks")
    parser.add_argument("--base-port", type=int, default=0, help="of the stack of its own; by default a free one")
    parser.add_argument("--keep", action="store_true", help="leave the stack, with the staged release, running")
    return parser


def _base() -> str:
    """Where the present branch left main; on main itself the commit before the last."""
    for branch in ("origin/main", "main"):
        try:
            found = merge_base(branch)
        except NotFound:  # a clone need not have this branch
            continue
        if found != git(ROOT, "rev-parse", "HEAD").strip():
            return found
    return git(ROOT, "rev-parse", "HEAD~1").strip()


def _chosen(model: str, base: str) -> list[ModelSpec]:
    specs = {spec.name: spec for spec in load_specs()}
    if model and model not in specs:
        raise NotFound(f"there is no model {model!r}, expected one of {', '.join(specs)}")
    return [specs[name] for name in ([model] if model else changed_models(files_since(base), [*specs.values()]))]


def _production() -> Platform | None:
    """What the environment names, as for every other command; None if no stack was ever up there."""
    try:
        return local_platform()
    except NotFound:
        return None


def _run(spec: ModelSpec, base: str, told: argparse.Namespace, production: Platform | None) -> bool:
    out = (told.out / spec.name).resolve()
    out.mkdir(parents=True, exist_ok=True)
    settings = Settings(out / "stack", told.base_port or _free_block())
    stack = Stack(settings)
    _clear(settings, stack)
    ci = ModelCi(spec, settings, base, told.gate, production)
    try:
        summary = ci.run()
    finally:
        if not told.keep:
            stack.down()
    (out / "summary.json").write_text(summary.to_json())
    (out / "comment.md").write_text(summary.to_markdown())
    print(f"{'passed' if summary.passed else 'FAILED'} after {summary.seconds:.0f} s: {out / 'comment.md'} and {out / 'summary.json'}")
    if told.keep:
        print(f"the stack runs: MLOPS_HOME={settings.home} MLOPS_BASE_PORT={settings.base_port} mlops status | down")
    return summary.passed


def _clear(settings: Settings, stack: Stack) -> None:
    """End and delete what an earlier call has left."""
    if settings.home.exists():
        stack.down()
        shutil.rmtree(settings.home)


def _free_block() -> int:
    """The first base port whose block nobody listens on, nor 10,000 above, where SeaweedFS listens too."""
    for base in BLOCKS:
        if all(can_listen(base + offset + above) for offset in range(30) for above in (0, 10_000)):
            return base
    raise MlopsError(f"no block of ports from {BLOCKS.start} to {BLOCKS.stop} is free: name one with --base-port")


if __name__ == "__main__":
    sys.exit(main())
