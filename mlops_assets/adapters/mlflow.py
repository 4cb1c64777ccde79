"""Training runs and releases in MLflow. A release is a version of a registered model: version 3 is ``v3``."""

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mlops_assets.adapters.mlflow_api import MlflowApi
from mlops_assets.core.errors import AlreadyExists, BadData, NotFound
from mlops_assets.core.policy import release_number
from mlops_assets.ports import ReleaseInfo, TrainingRun, model_key

TRAINING_KEY = "training_key"
DIGEST, URI = "digest", "uri"
"""The tags of a version that are ours: the sha256 of its model file, and that file's key in the object store."""

_MOST_PARAMS = 100


class MlflowRegistry:
    """:class:`mlops_assets.ports.Registry` on an MLflow server.

    Nothing is decided by what a search says of a version: what it finds is read by itself (MLflow's search forgets aliases).

    Args:
        url: of the tracking server, e.g. ``http://127.0.0.1:4002``.
    """

    def __init__(self, url: str) -> None:
        self._api = MlflowApi(url)

    def log_run(self, run: TrainingRun, artifacts: Mapping[str, bytes]) -> str:
        """Log a training run with its artifacts (file name to bytes); returns the run's id.

        A run with the same model and tag ``training_key`` that was logged before is returned; one whose logging was cut off is
        completed. Two that log the same key in the same moment may both do it.

        Raises:
            BadData: if a metric is not a finite number.
            Unavailable: if MLflow does not answer.
        """
        wrong = [f"{name}={value}" for name, value in run.metrics.items() if not math.isfinite(value)]
        if wrong:
            raise BadData(f"training run of {run.model}: {', '.join(wrong)}, expected finite metrics: leave out what cannot be computed")
        experiment = self._experiment(run.model)
        found = self._find_run(experiment, run.tags.get(TRAINING_KEY)) or self._create_run(experiment, run)
        info = found["info"]
        run_id = str(info["run_id"])
        if info["status"] == "FINISHED":
            return run_id
        self._log_values(run_id, run)
        self._api.upload(info["artifact_uri"], artifacts)
        self._api.post("runs/update", run_id=run_id, status="FINISHED", end_time=_now_ms())
        return run_id

    def register(self, model: str, run_id: str, digest: str, tags: Mapping[str, str]) -> ReleaseInfo:
        """Make a version for this training run and digest; the version that was made for them before is returned, not doubled.

        Raises:
            NotFound: if there is no such run.
            Unavailable: if MLflow does not answer.
        """
        run = self._api.get("runs/get", run_id=run_id)["run"]
        with suppress(AlreadyExists):
            self._api.post("registered-models/create", name=model)
        made = self._versions(model, run_id, digest)
        if not made:
            ours = _pairs({**tags, DIGEST: digest})
            source = run["info"]["artifact_uri"]
            answer = self._api.post("model-versions/create", name=model, run_id=run_id, source=source, tags=ours)
            made = self._settle(model, run_id, digest, answer["model_version"]["version"])
        release = f"v{made[0]}"
        self.annotate(model, release, {URI: model_key(model, release)})
        return self.release(model, release)

    def release(self, model: str, release: str) -> ReleaseInfo:
        """Read one version; :class:`NotFound` if there is none."""
        version = self._api.get("model-versions/get", name=model, version=_version(model, release))["model_version"]
        tags = {tag["key"]: tag["value"] for tag in version.get("tags", ())}
        digest, uri = tags.pop(DIGEST, None), tags.pop(URI, model_key(model, release))
        if digest is None:
            raise NotFound(f"{release} of {model} in MLflow has no tag {DIGEST!r}, so it is no release: register it through training")
        return ReleaseInfo(model, release, version.get("run_id", ""), digest, uri, tags)

    def annotate(self, model: str, release: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version; :class:`NotFound` if there is none."""
        version = _version(model, release)
        for key, value in tags.items():
            self._api.post("model-versions/set-tag", name=model, version=version, key=key, value=value)

    def set_aliases(self, model: str, aliases: Mapping[str, str | None]) -> None:
        """Point each alias to its release, or remove it where the release is ``None``; :class:`NotFound` if there is no such release."""
        for alias, release in aliases.items():
            if release is not None:
                self._api.post("registered-models/alias", name=model, alias=alias, version=_version(model, release))
            else:
                with suppress(NotFound):
                    self._api.delete("registered-models/alias", name=model, alias=alias)

    def aliases(self, model: str) -> Mapping[str, str]:
        """The aliases of the model and the releases they point to; none if the model was never registered."""
        try:
            known = self._api.get("registered-models/get", name=model)["registered_model"]
        except NotFound:
            return {}
        return {entry["alias"]: f"v{entry['version']}" for entry in known.get("aliases", ())}

    def _experiment(self, model: str) -> str:
        """The experiment that holds the model's training runs, made if it is not there."""
        with suppress(NotFound):
            return str(self._api.get("experiments/get-by-name", experiment_name=model)["experiment"]["experiment_id"])
        with suppress(AlreadyExists):
            return str(self._api.post("experiments/create", name=model)["experiment_id"])
        return str(self._api.get("experiments/get-by-name", experiment_name=model)["experiment"]["experiment_id"])

    def _find_run(self, experiment: str, training_key: str | None) -> Any | None:
        if training_key is None:
            return None
        criterion = f"tags.{TRAINING_KEY} = '{training_key}'"
        order = ["attributes.start_time ASC"]
        answer = self._api.post("runs/search", experiment_ids=[experiment], filter=criterion, order_by=order, max_results=50)
        runs = answer.get("runs", [])
        # one that is complete first, else the oldest that was cut off
        return next((run for run in runs if run["info"]["status"] == "FINISHED"), next(iter(runs), None))

    def _create_run(self, experiment: str, run: TrainingRun) -> Any:
        tags = _pairs({**run.tags, "training_set": run.training_set})
        name = f"{run.model} {run.training_set[:12]}"
        return self._api.post("runs/create", experiment_id=experiment, run_name=name, start_time=_now_ms(), tags=tags)["run"]

    def _log_values(self, run_id: str, run: TrainingRun) -> None:
        now = _now_ms()
        metrics = [{"key": key, "value": value, "timestamp": now, "step": 0} for key, value in run.metrics.items()]
        self._api.post("runs/log-batch", run_id=run_id, metrics=metrics)
        params = _pairs({key: str(value) for key, value in run.hyperparameters.items()})
        for first in range(0, len(params), _MOST_PARAMS):
            self._api.post("runs/log-batch", run_id=run_id, params=params[first : first + _MOST_PARAMS])

    def _versions(self, model: str, run_id: str, digest: str) -> list[int]:
        """The numbers of the versions made for this run and digest, lowest first."""
        found = self._api.get("model-versions/search", filter=f"name='{model}' and run_id='{run_id}'").get("model_versions", ())
        numbers = sorted(int(version["version"]) for version in found)
        return [number for number in numbers if self._has_digest(model, number, digest)]

    def _has_digest(self, model: str, number: int, digest: str) -> bool:
        try:
            return self.release(model, f"v{number}").digest == digest
        except NotFound:
            return False

    def _settle(self, model: str, run_id: str, digest: str, mine: str) -> list[int]:
        """Of versions that were made for the same thing in the same moment, the lowest stays."""
        made = self._versions(model, run_id, digest)
        if made and int(mine) != made[0]:
            self._api.delete("model-versions/delete", name=model, version=mine)
        return made or [int(mine)]


def _version(model: str, release: str) -> str:
    try:
        return str(release_number(release))
    except ValueError as error:
        raise NotFound(f"{model} has no release {release!r} in the registry: check the name, releases are called v1, v2, ...") from error


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _now_ms() -> int:
    return int(time.time() * 1000)
