"""A whole platform in this process: in-memory adapters, a clock that the test moves, and the sensors' night shift by hand."""

import warnings
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pandas as pd

from mlops_assets.adapters.memory import MemoryObjectStore, MemoryPolicyStore, MemoryRegistry
from mlops_assets.adapters.memory_deployments import MemoryDeployments, StartRelease, onnx_predictors
from mlops_assets.adapters.memory_features import MemoryFeatureStore
from mlops_assets.adapters.memory_gateway import MemoryGateway
from mlops_assets.adapters.memory_log import MemoryPredictionLog
from mlops_assets.adapters.memory_pager import MemoryPager
from mlops_assets.assets import keys
from mlops_assets.assets.documents import document_io_manager
from mlops_assets.assets.hourly_monitoring import build_hourly_monitoring
from mlops_assets.components.model import model_definitions
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Policy
from mlops_assets.ports import Platform
from mlops_assets.sensors import build_sensors

warnings.filterwarnings("ignore", category=dg.PreviewWarning)
warnings.filterwarnings("ignore", category=dg.BetaWarning)


QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class Clock:
    """The time, moved by the test."""

    def __init__(self) -> None:
        # Dagster stamps runs with the wall clock, so the test's time must not lie before it.
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        self.now += by


class World:
    """Some models on in-memory adapters, with one Dagster instance."""

    def __init__(self, specs: Sequence[ModelSpec], start_release: StartRelease | None = None, like: "World | None" = None) -> None:
        """``like`` is another world of the same specs: its definitions, which take long to build, are used again."""
        self.specs = {spec.name: spec for spec in specs}
        self.clock = Clock()
        self.objects = MemoryObjectStore(self.clock)
        self.log = MemoryPredictionLog()
        self.pager = MemoryPager(self.clock)
        self.deployments = MemoryDeployments(start_release or onnx_predictors(self.objects))
        self.gateway = MemoryGateway(self.deployments, self.log, self.clock)
        self.platform = Platform(
            clock=self.clock,
            objects=self.objects,
            policies=MemoryPolicyStore(),
            registry=MemoryRegistry(),
            features=MemoryFeatureStore(),
            deployments=self.deployments,
            gateway=self.gateway,
            predictions=self.log,
            pager=self.pager,
        )
        self.instance = dg.DagsterInstance.ephemeral()
        self.sensors = {sensor.name: sensor for sensor in build_sensors(specs)}
        self.cursors: dict[str, str | None] = dict.fromkeys(self.sensors)
        self.run_keys: set[str] = set()
        self.runs: list[dg.ExecuteInProcessResult] = []
        self._current, self.job = (like._current, like.job) if like else _job(specs)

    def policy(self, model: str) -> Policy:
        return self.platform.policies.read(model)

    def materialize(self, model: str, *nouns: str, partition: str | None = None, config: dict | None = None, tags: dict | None = None):
        """What a click on Materialize does."""
        selection = [keys.key(self.specs[model], noun) for noun in nouns]
        return self._run(dg.RunRequest(asset_selection=selection, partition_key=partition, run_config=config or {}, tags=tags or {}))

    def tick(self, *names: str) -> int:
        """Let the named sensors look once; the runs that they ask for are made. Returns how many.

        By default all but ``monitoring``, which would go through what is served at every hour that a test lets pass.
        """
        made = 0
        for name in names or tuple(name for name in self.sensors if name != "monitoring"):
            with dg.build_sensor_context(self.instance, cursor=self.cursors[name], resources={"platform": self.platform}) as context:
                result = self.sensors[name](context)
            self.cursors[name] = result.cursor
            for event in result.asset_events:
                self.instance.report_runless_asset_event(event)
            for request in result.run_requests or ():
                if request.run_key is None or request.run_key not in self.run_keys:
                    self.run_keys |= {request.run_key} - {None}
                    self._run(request)
                    made += 1
        return made

    def settle(self, most: int = 40) -> None:
        """Tick until the sensors ask for nothing more."""
        for _ in range(most):
            if not self.tick():
                return
        raise AssertionError(f"the sensors still ask for runs after {most} ticks")

    def checks(self, model: str, noun: str) -> dict[str, bool]:
        """The newest outcome of each check of an asset."""
        found = {}
        for run in self.runs:
            for evaluation in run.get_asset_check_evaluations():
                if evaluation.asset_key == keys.key(self.specs[model], noun):
                    found[evaluation.check_name] = evaluation.passed
        return found

    def materializations(self, model: str, noun: str, partition: str | None = None) -> list[dg.AssetMaterialization]:
        """Every record of an asset, oldest first."""
        filters = dg.AssetRecordsFilter(keys.key(self.specs[model], noun), asset_partitions=[partition] if partition else None)
        records = self.instance.fetch_materializations(filters, limit=1000, ascending=True).records
        return [record.asset_materialization for record in records if record.asset_materialization]

    def send(self, model: str, rows: pd.DataFrame) -> pd.DataFrame:
        return self.gateway.send(model, rows)

    def _run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        self._current["platform"] = self.platform
        result = self.job.execute_in_process(
            instance=self.instance,
            asset_selection=list(request.asset_selection or ()),
            partition_key=request.partition_key,
            run_config={**QUIET, **request.run_config},
            tags=dict(request.tags),
            raise_on_error=False,
        )
        self.runs.append(result)
        return result


def _job(specs: Sequence[ModelSpec]) -> tuple[dict[str, Platform], dg.JobDefinition]:
    """All assets as one job, and where it finds its platform."""
    current: dict[str, Platform] = {}
    resources = {"platform": dg.ResourceDefinition(lambda _: current["platform"]), "io_manager": document_io_manager}
    assets = [*(asset for spec in specs for asset in model_definitions(spec).assets or ()), *build_hourly_monitoring(specs)]
    return current, dg.Definitions(assets, resources=resources).resolve_implicit_global_asset_job_def()


def days(start: date, end: date) -> list[date]:
    """Every day from ``start`` up to and without ``end``."""
    return [start + timedelta(days=n) for n in range((end - start).days)]
