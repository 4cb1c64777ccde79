"""An experiment as people write it down: one YAML (or JSON) file with the sections design, declared and results."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops_assets.core.errors import SpecError
from mlops_assets.core.experiment_design import Design
from mlops_assets.core.experiment_results import Results

SECTIONS = ("design", "declared", "results")


@dataclass(frozen=True)
class ExperimentFile:
    """``declared`` is the design's hash as it was written down before the start; empty, and ``results`` ``None``, before that."""

    design: Design
    declared: str
    results: Results | None


def read(path: Path) -> ExperimentFile:
    """Read the file.

    Raises:
        SpecError: if it cannot be read, or a field is unknown, missing or contradictory; the message names it.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, Mapping) or "design" not in document:
        raise SpecError(f"{path}: there is no section 'design', expected the sections {', '.join(SECTIONS)}")
    unknown = [str(name) for name in document if name not in SECTIONS]
    if unknown:
        raise SpecError(f"{path}: there is no section {', '.join(unknown)}, expected {', '.join(SECTIONS)}")
    results = _section(path, "results", Results, document["results"]) if document.get("results") is not None else None
    return ExperimentFile(_section(path, "design", Design, document["design"]), str(document.get("declared") or ""), results)


def _section(path: Path, name: str, wanted: type, given: Any) -> Any:
    from pydantic import ValidationError

    from mlops_assets.components.attributes import build, model_of

    try:
        return build(wanted, model_of(wanted).model_validate(given))
    except ValidationError as error:
        told = "; ".join(f"{'.'.join([name, *(str(part) for part in one['loc'])])}: {one['msg']}" for one in error.errors())
        raise SpecError(f"{path}: {told}") from error
