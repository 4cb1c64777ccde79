"""What is past its time is deleted, once a day, for all models."""

from collections.abc import Sequence

import dagster as dg

from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import Platform
from mlops_assets.retention import Past, apply

KEY = dg.AssetKey(["platform", "retention"])


def build_retention_asset(specs: Sequence[ModelSpec]) -> dg.AssetsDefinition:
    @dg.asset(
        key=KEY,
        group_name="platform",
        kinds={"s3"},
        description="Deletes what is past its time, as 'retention' of each model says. 'mlops retention' tells beforehand what that is.",
    )
    def retention(platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
        done, wrong = apply(platform, specs)
        if wrong:
            told = "; ".join(f"{model}: {why}" for model, why in wrong.items())
            raise dg.Failure(f"of {', '.join(wrong)} nothing more was deleted; all other models are done: {told}")
        rows = [row for found in done for row in found.counts() if row.objects]
        deleted = {"objects": sum(row.objects for row in rows), "bytes": sum(row.size for row in rows)}
        return dg.MaterializeResult(metadata={**deleted, "releases": sum(len(found.releases) for found in done), "deleted": table(done)})

    return retention


def table(done: Sequence[Past]) -> dg.TableMetadataValue:
    """What went, by model and kind."""
    columns = [dg.TableColumn("model"), dg.TableColumn("kind"), dg.TableColumn("objects", "int"), dg.TableColumn("bytes", "int")]
    records = [
        dg.TableRecord({"model": found.model, "kind": row.kind, "objects": row.objects, "bytes": row.size})
        for found in done
        for row in found.counts()
        if row.objects
    ]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))
