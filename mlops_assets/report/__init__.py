"""The report page of a model: what is known of it, drawn and written down in one HTML file that needs nothing else."""

from mlops_assets.report.page import render

__all__ = ["render"]
