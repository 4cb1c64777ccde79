"""The small typed documents that assets hand to each other, and how they are kept: as JSON in the object store."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import dagster as dg
from pydantic import TypeAdapter

from mlops_assets.core.gate_spec import GatePolicy


@dataclass(frozen=True)
class TrainingSet:
    """A frozen training set and the holdout after it, by the digests of their rows.

    Args:
        digest: of both together; the asset's data version.
        as_of: the data time at which it was assembled. Nothing known later is in it.
        trigger: why a training was asked for: ``new_data``, ``features`` (their definitions changed), ``code`` (that of the training did),
            ``drift``, ``schedule`` or ``manual``.
        gate: the gate policy under which the release will be judged.
        cause: where a person finds what asked for the training, such as the address of a drift report.
    """

    digest: str
    training: str
    holdout: str
    as_of: datetime
    rows: int
    holdout_rows: int
    feature_hash: str
    trigger: str
    gate: GatePolicy
    cause: str = ""


@dataclass(frozen=True)
class TrainedModel:
    """A training run and its export, which lies in the object store under its digest; what the features of the views add to it, and by
    which code it was made.
    """

    run_id: str
    digest: str
    training_set: TrainingSet
    history: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)


@dg.io_manager(required_resource_keys={"platform"})
def document_io_manager(context: dg.InitResourceContext) -> "DocumentIOManager":
    """Keeps the documents in the platform's object store, so that any process on any machine reads what another wrote."""
    return DocumentIOManager(context.resources.platform.objects)


class DocumentIOManager(dg.IOManager):
    def __init__(self, objects) -> None:  # type: ignore[no-untyped-def]
        self._objects = objects

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        if obj is not None:
            self._objects.put(_key(context), TypeAdapter(type(obj)).dump_json(obj))

    def load_input(self, context: dg.InputContext) -> object:
        return TypeAdapter(context.dagster_type.typing_type).validate_json(self._objects.get(_key(context)))


def _key(context: dg.OutputContext | dg.InputContext) -> str:
    return f"tables/documents/{'/'.join(context.asset_key.path)}.json"
