"""Verdicts as Dagster shows them."""

from collections.abc import Mapping, Sequence

import dagster as dg

from mlops_assets.core.verdict import Outcome, Verdict


def check_result(
    name: str,
    asset: dg.AssetKey,
    verdict: Verdict,
    beside: Mapping[str, object] | None = None,
    inconclusive: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """A verdict as Dagster shows it, with what stands beside it. Inconclusive is not a pass; a warning does not block what follows."""
    shown = {k: v for k, v in verdict.to_dict().items() if v is not None and k != "reason"} | dict(beside or {})
    severity = inconclusive if verdict.outcome is Outcome.INCONCLUSIVE else dg.AssetCheckSeverity.ERROR
    return dg.AssetCheckResult(
        check_name=name, asset_key=asset, passed=verdict.passed, severity=severity, description=verdict.reason, metadata=shown
    )


def figures(verdicts: Sequence[Verdict]) -> dict[str, object]:
    """Numbers that the UI plots, and the verdicts as a table."""
    numbers: dict[str, object] = {verdict.name: verdict.value for verdict in verdicts if verdict.value is not None}
    return numbers | {"verdicts": table(verdicts)}


def table(verdicts: Sequence[Verdict]) -> dg.TableMetadataValue:
    """One row a verdict."""
    rows = [
        dg.TableRecord(
            {"name": v.name, "outcome": v.outcome.value, "value": v.value, "threshold": v.threshold, "sample": v.sample, "reason": v.reason}
        )
        for v in verdicts
    ]
    kinds = {"value": "float", "threshold": "float", "sample": "int"}
    schema = dg.TableSchema(
        [dg.TableColumn(name, kinds.get(name, "string")) for name in ("name", "outcome", "value", "threshold", "sample", "reason")]
    )
    return dg.MetadataValue.table(rows, schema)
