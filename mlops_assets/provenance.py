"""Which code made a model: the commit, whether the tree differed from it, and the digest of the dependency lock."""

import hashlib
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def provenance() -> dict[str, str]:
    """Tags for a training run.

    In an image, ``MLOPS_COMMIT`` says what it was built from (``<commit>``, or ``<commit>-dirty``). Where neither that nor git does, the
    commit is ``unknown``.
    """
    told = os.environ.get("MLOPS_COMMIT", "")
    commit = told.removesuffix("-dirty") or _git("rev-parse", "HEAD")
    dirty = told.endswith("-dirty") if told else bool(_git("status", "--porcelain", "--untracked-files=no"))
    lock = ROOT / "requirements.lock"
    return {
        "git_commit": commit or "unknown",
        "git_dirty": str(dirty).lower() if commit else "unknown",
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else "unknown",
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
