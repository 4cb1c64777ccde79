"""A new model that runs at once: a ``defs.yaml``, its training code, its features and made-up data, from ``templates/``."""

import keyword
from importlib.resources import files
from pathlib import Path
from string import Template

from mlops_assets.core.errors import SpecError
from mlops_assets.core.model_spec import check_name

LONGEST_NAME = 40
"""Characters. Asset keys, feature views and file names are made of it."""


def new_model(name: str, root: Path) -> tuple[Path, ...]:
    """Write the files of a new model; returns their paths. Nothing that exists is touched.

    Args:
        name: of the model, lower-case words joined by hyphens.
        root: the project's folder, which holds ``mlops_assets/defs`` and ``feature_repo``.

    Raises:
        SpecError: if the name cannot be used, is taken, or ``root`` is not a project.
    """
    _check_name(name)
    slug = name.replace("-", "_")
    definitions, features = root / "mlops_assets" / "defs", root / "feature_repo"
    for folder in (definitions, features):
        if not folder.is_dir():
            raise SpecError(f"there is no folder {folder}: call this in the project's folder, beside pyproject.toml")
    made, module = definitions / slug, features / f"{slug}.py"
    for path in (made, module):
        _require_free(path, name)
    contents = {
        made / "__init__.py": "",
        made / "defs.yaml": _filled("defs.yaml", name, slug),
        made / "training.py": _filled("training.py", name, slug),
        made / "sample.py": _filled("sample.py", name, slug),
        module: _filled("features.py", name, slug),
    }
    made.mkdir()
    for path, text in contents.items():
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    return tuple(contents)


def _check_name(name: str) -> None:
    check_name(name)
    if keyword.iskeyword(name):
        raise SpecError(f"name: {name!r} is a word of Python's own and cannot be a package: add a word, such as '{name}-model'")
    if len(name) > LONGEST_NAME:
        raise SpecError(f"name: {name!r} has {len(name)} characters, expected at most {LONGEST_NAME}: shorten it")


def _require_free(path: Path, name: str) -> None:
    if path.exists():
        raise SpecError(f"{path} exists already and was left as it is: take another name than {name!r}, or move it away first")


def _filled(template: str, name: str, slug: str) -> str:
    text = (files("mlops_assets") / "templates" / f"{template}.tmpl").read_text(encoding="utf-8")
    return Template(text).substitute(name=name, slug=slug)
