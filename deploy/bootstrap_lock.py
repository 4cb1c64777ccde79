"""Writes deploy/bootstrap.lock: the entry of uv in requirements.lock, which pip installs first, so that uv installs the rest."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def entry(lock: str, package: str) -> str:
    """The lines of one package: its pin and its hashes."""
    lines = lock.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{package}=="))
    end = next((n for n in range(start + 1, len(lines)) if not lines[n].startswith(" ")), len(lines))
    return "\n".join(line for line in lines[start:end] if not line.strip().startswith("#")) + "\n"


if __name__ == "__main__":
    (ROOT / "deploy" / "bootstrap.lock").write_text(entry((ROOT / "requirements.lock").read_text(), "uv"))
