"""Builds the images: ``make images`` calls ``python -m deploy.docker.build images``, ``make image`` calls ``... release MODEL RELEASE``.

Packages come in by hash before the build (:mod:`deploy.docker.packages`), so that the build itself runs without a network. Each image
carries a CycloneDX SBOM of exactly its lock, which is written beside it too, and labels that say of which commit and lock it is.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploy.docker.packages import PYTHON, compile_all, prepare
from mlops_assets.core.errors import DigestMismatch, MlopsError, NotFound

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BASE = "docker.io/library/python:3.11-slim-bookworm"
ENGINES = ("docker", "podman", "buildah")


@dataclass(frozen=True)
class Recipe:
    """One image.

    Args:
        name: of the image, and of its Containerfile.
        lay_out: copies what is ours into the build's folder.
    """

    name: str
    lay_out: Callable[[Path], None]

    @property
    def containerfile(self) -> Path:
        return HERE / f"{self.name}.Containerfile"

    @property
    def lock(self) -> Path:
        return HERE / f"{self.name}.lock"

    @property
    def trim(self) -> Path:
        """Names the files of its packages that it does without."""
        return HERE / f"{self.name}.trim"


@dataclass(frozen=True)
class Build:
    """How images are built here.

    Args:
        engine: ``docker``, ``podman`` or ``buildah``.
        base: the image below ours: a Debian 12 with Python 3.11, best by digest.
        tag: of the images made.
        source: where the repository is to be found, for a label; may be empty.
        out: the folder for what is made beside the images.
    """

    engine: str
    base: str
    tag: str
    source: str
    out: Path

    def image(self, recipe: Recipe) -> str:
        """Build one image; returns its name.

        Raises:
            MlopsError: with the command that failed.
        """
        context = self._fresh(recipe.name)
        lock = recipe.lock.read_bytes()
        shutil.copytree(
            prepare(recipe.lock, recipe.trim, self.out / "packages"), context / "packages", copy_function=os.link, symlinks=True
        )
        recipe.lay_out(context)
        compile_all(context / "app", "/app")
        sbom = self.out / f"mlops-{recipe.name}.cdx.json"
        write_sbom(recipe.lock, sbom)
        shutil.copy(sbom, context / "sbom.cdx.json")
        name = f"mlops-{recipe.name}:{self.tag}"
        told = {"BASE": self.base, "REVISION": revision(), "VERSION": _version(), "LOCK_SHA256": _digest(lock), "SOURCE": self.source}
        self._run_engine(recipe.containerfile, name, told, context)
        return name

    def release(self, model: str, release: str, digest: str, data: bytes, below: str) -> str:
        """Bake a release's file into the serving image ``below``; returns ``models/<model>:<release>``.

        Raises:
            DigestMismatch: if ``data`` is not what was registered.
            MlopsError: with the command that failed.
        """
        if _digest(data) != digest:
            raise DigestMismatch(f"{release} of {model}: got sha256 {_digest(data)}, expected {digest}: its file was changed; restore it")
        context = self._fresh(f"{model}-{release}")
        (context / "models").mkdir()
        (context / "models" / f"{digest}.onnx").write_bytes(data)
        name = f"models/{model}:{release}"
        told = {"SERVING": below, "MODEL": model, "RELEASE": release, "DIGEST": digest}
        self._run_engine(HERE / "release.Containerfile", name, told, context)
        return name

    def _fresh(self, name: str) -> Path:
        context = self.out / "contexts" / name
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir(parents=True)
        return context

    def _run_engine(self, containerfile: Path, name: str, arguments: dict[str, str], context: Path) -> None:
        given = [part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")]
        # buildah keeps no layer but the last, unless it is told to
        os.environ.setdefault("BUILDAH_LAYERS", "true")
        _run(self.engine, "build", "--network", "none", "--file", str(containerfile), "--tag", name, *given, str(context))


def find_engine(asked: str = "", known: Sequence[str] = ENGINES) -> str:
    """The engine that was asked for, else the first of those ``known`` that works here; :class:`NotFound` if there is none."""
    for name in (asked,) if asked else known:
        if shutil.which(name) and (asked or _works(name)):
            return name
    raise NotFound(f"found no {asked or 'container engine'} that works, expected one of {', '.join(known)}: install one, or set ENGINE")


def write_sbom(lock: Path, file: Path) -> None:
    """Write the software bill of materials of a lock, as CycloneDX JSON that is the same for the same lock."""
    file.parent.mkdir(parents=True, exist_ok=True)
    made = [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", "--output-reproducible", "--output-format", "JSON"]
    _run(*made, "--pyproject", str(ROOT / "pyproject.toml"), "--output-file", str(file), str(lock))


def revision() -> str:
    """The commit that is built from, with ``-dirty`` if the tree differs from it."""
    return _run("git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty").strip()


def source_of(remote: str) -> str:
    """The address of a repository as a label may have it: without a name or a password, and none of a folder.

    >>> source_of("https://me:secret@example.org/team/mlops-assets.git"), source_of("/srv/git/mlops-assets")
    ('https://example.org/team/mlops-assets.git', '')
    """
    found = urlsplit(remote)
    return f"https://{found.hostname}{found.path}" if found.scheme in ("https", "ssh") and found.hostname else ""


def lay_out_serving(context: Path) -> None:
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["bentoml"]["build"]["include"]
    for path in sorted(path for pattern in included for path in ROOT.glob(pattern)):
        to = context / "app" / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)


def _lay_out_platform(context: Path) -> None:
    project = context / "project"
    _run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(project), cwd=ROOT)
    (wheel,) = project.glob("*.whl")
    # With its metadata, in which `mlops doctor` reads what it needs.
    shutil.unpack_archive(wheel, context / "app", "zip")
    for name in ("pyproject.toml", "workspace.yaml"):
        shutil.copy(ROOT / name, context / "app")
    shutil.copy(PLATFORM.lock, context / "app" / "requirements.lock")  # whose hash a training run is tagged with
    command = context / "packages" / "bin" / "mlops"
    command.write_text(f"#!{PYTHON}\nfrom mlops_assets.cli import app\n\napp()\n")
    command.chmod(0o755)


def _run(*command: str, cwd: Path | None = None) -> str:
    """Run a command whose progress a person may see on standard error; returns its output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=cwd)
    if done.returncode != 0:
        raise MlopsError(f"{' '.join(command[:4])} ... ended with {done.returncode}, expected 0: see its output above")
    return done.stdout


def _works(engine: str) -> bool:
    """Whether it is more than a command: docker's may be there without its daemon."""
    return subprocess.run([engine, "info"], capture_output=True, check=False).returncode == 0


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


SERVING = Recipe("serving", lay_out_serving)
PLATFORM = Recipe("platform", _lay_out_platform)
RECIPES = {recipe.name: recipe for recipe in (SERVING, PLATFORM)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Build what the command line asks for; exit with 1 and the reason if that cannot be done."""
    told = parser().parse_args(arguments)
    os.umask(0o022)  # in the images another user reads what is written here
    try:
        build = Build(find_engine(told.engine), told.base, told.tag or tag_of(revision()), told.source or _source(), told.out.resolve())
        if told.what == "release":
            print(_bake(build, told.model, told.release))
        else:
            for name in told.names or RECIPES:
                print(build.image(RECIPES[name]))
    except MlopsError as error:
        sys.exit(f"error: {error}")


def parser() -> argparse.ArgumentParser:
    """What may be said on the command line; the environment says the rest, as make hands it on."""
    made = argparse.ArgumentParser(prog="python -m deploy.docker.build", description=__doc__)
    made.add_argument("--engine", default=os.environ.get("ENGINE", ""), help=f"one of {', '.join(ENGINES)}; by default the first found")
    made.add_argument("--base", default=os.environ.get("BASE") or BASE, help="the image below ours, best by digest")
    made.add_argument("--tag", default=os.environ.get("TAG", ""), help="of the images; by default the commit's first 12 digits")
    made.add_argument("--source", default=os.environ.get("SOURCE", ""), help="where the repository is; by default git's remote")
    made.add_argument("--out", type=Path, default=ROOT / "build" / "images", help="the folder for packages and SBOMs")
    asked = made.add_subparsers(dest="what", required=True)
    images = asked.add_parser("images", help="the generic images, by default all of them")
    images.add_argument("names", nargs="*", type=_known, metavar=f"{{{','.join(RECIPES)}}}")
    release = asked.add_parser("release", help="one release baked into the serving image")
    release.add_argument("model")
    release.add_argument("release")
    return made


def tag_of(revision: str) -> str:
    """How images of a revision are called.

    >>> tag_of("0123456789abcdef0123456789abcdef01234567-dirty")
    '0123456789ab-dirty'
    """
    commit, _, dirty = revision.partition("-")
    return f"{commit[:12]}-{dirty}" if dirty else commit[:12]


def _known(name: str) -> str:
    if name not in RECIPES:
        raise argparse.ArgumentTypeError(f"got {name!r}, expected one of {', '.join(RECIPES)}")
    return name


def _source() -> str:
    remote = subprocess.run(["git", "-C", str(ROOT), "config", "remote.origin.url"], capture_output=True, text=True, check=False)
    return source_of(remote.stdout.strip())


def _bake(build: Build, model: str, release: str) -> str:
    """The image of a release that the registry knows, from its file in the object store."""
    from mlops_assets.adapters.local import local_platform

    here = local_platform()
    known = here.registry.release(model, release)
    return build.release(model, release, known.digest, here.objects.get(known.uri), f"mlops-{SERVING.name}:{build.tag}")


if __name__ == "__main__":
    main()
