"""``python -m mlops_assets``: the same as ``mlops``."""

from mlops_assets.cli import app

if __name__ == "__main__":
    app()
