"""What locks and SBOMs list."""

import json
import re
from collections.abc import Mapping
from pathlib import Path


def locked(lock: Path) -> Mapping[str, str]:
    """Package names and versions of a lock."""
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", lock.read_text(), re.MULTILINE))


def components(sbom: str) -> Mapping[str, str]:
    """Package names and versions of a CycloneDX document."""
    return {component["name"]: component["version"] for component in json.loads(sbom)["components"]}
