"""What users write in a ``defs.yaml``."""

from mlops_assets.components.model import ModelComponent

__all__ = ["ModelComponent"]
