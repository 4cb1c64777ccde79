"""The in-memory twin of :mod:`mlops_assets.adapters.envoy`: traffic is split and answered in this process, a table at a time."""

import bisect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mlops_assets.adapters.memory_deployments import MemoryDeployments, Predictor, SignedPredictor
from mlops_assets.adapters.memory_log import MemoryPredictionLog
from mlops_assets.adapters.prediction_log import ENTITY_PREFIX, FEATURE_PREFIX, REQUEST_PREFIX
from mlops_assets.adapters.pseudonyms import concealed
from mlops_assets.core.errors import BadData, NotReady, Unavailable
from mlops_assets.core.evidence import LATENCY_BOUNDS_MS, GatewaySample, Traffic
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.routing import Route
from mlops_assets.core.signature import encode
from mlops_assets.ports import Clock

ROW_COLUMNS = ("request_id", "unit", "event_time")
OK, NO_ROUTE, FAILED, NOT_RUNNING = 200, 404, 500, 503


@dataclass
class _OneGateway:
    epoch: int
    routes: dict[str, Route]
    traffic: dict[tuple[str, str], Traffic]


class MemoryGateway:
    """A :class:`mlops_assets.ports.Gateway` in this process, and the way to send requests through it.

    Args:
        deployments: where the releases run.
        log: takes the answers.
        clock: the time at which they are logged.
        latency_ms: how long a release takes to answer, in ms; counted, not waited for.
        names: of the gateways; each counts for itself.
        pii_key: what releases hash marked fields with before they log them.
    """

    follows_policies = False

    def __init__(
        self,
        deployments: MemoryDeployments,
        log: MemoryPredictionLog,
        clock: Clock,
        latency_ms: Callable[[str], float] = lambda release: 5.0,
        names: Sequence[str] = ("local",),
        pii_key: str = "",
    ) -> None:
        self._deployments, self._log, self._clock, self.latency_ms = deployments, log, clock, latency_ms
        self.pii_key = pii_key
        self._gateways = {name: _OneGateway(1, {}, {}) for name in names}
        self._down: set[str] = set()
        self._lock = threading.RLock()

    def apply(self, route: Route) -> None:
        with self._lock:
            for gateway in self._gateways.values():
                before = gateway.routes.get(route.model)
                if before is not None and route.generation < before.generation:
                    return
                self._require_ready(route, before)
            for gateway in self._gateways.values():
                gateway.routes[route.model] = replace(route, endpoints=dict(route.endpoints))
            if self._down:
                raise Unavailable(f"gateway {', '.join(sorted(self._down))} does not answer; it follows once it is up again")

    def applied(self, model: str) -> Mapping[str, int]:
        self._require_up()
        routes = {name: gateway.routes.get(model) for name, gateway in self._gateways.items()}
        return {name: route.generation if route else -1 for name, route in routes.items()}

    def sample(self, model: str) -> Sequence[GatewaySample]:
        self._require_up()
        samples = []
        for name, gateway in self._gateways.items():
            traffic = {release: counts for (of, release), counts in gateway.traffic.items() if of == model}
            samples.append(GatewaySample(name, str(gateway.epoch), traffic))
        return samples

    def take_down(self, name: str = "local") -> None:
        """The gateway does not answer until :meth:`restart`."""
        self._down.add(name)

    def restart(self, name: str = "local") -> None:
        """The gateway starts again: it keeps its routes and has counted nothing."""
        self._down.discard(name)
        self._gateways[name] = _OneGateway(self._gateways[name].epoch + 1, self._gateways[name].routes, {})

    def send(self, model: str, rows: pd.DataFrame, gateway: str = "local") -> pd.DataFrame:
        """Send one request a row.

        Args:
            model: who is asked.
            rows: ``request_id``, ``unit`` (missing: the request id is the unit), ``event_time`` (UTC), entities as in the log
                (``entity__customer``), and the features as they are, categories as strings.
            gateway: through which one.

        Returns one row a request, in their order: ``request_id``, ``release``, ``status`` (200; 404 without a route; 500 where the
        predictor raised or answered with a number that is not finite; 503 where the release does not run) and ``score``.

        Raises:
            BadData: if a column is missing or a feature is not a number; nothing is counted then.
            Unavailable: if the gateway is down.
        """
        _require_columns(rows)
        if gateway in self._down:
            raise Unavailable(f"gateway {gateway} does not answer: restart it")
        with self._lock:
            through = self._gateways[gateway]
            route = through.routes.get(model)
            request_ids = rows["request_id"].astype(str).to_numpy(object)
            releases = _releases(route, rows["unit"].to_numpy(object), request_ids)
            status, score = np.full(len(rows), NO_ROUTE), np.full(len(rows), np.nan)
            if route is not None:
                for release in sorted({name for name in releases if name}):
                    chosen = releases == release
                    status[chosen], score[chosen] = self._ask(through, route, release, "live", rows[chosen])
                if route.mirror is not None:
                    copied = (points(request_ids) < route.mirror.percent) & (releases != "")
                    self._ask(through, route, route.mirror.release, "shadow", rows[copied])
        return pd.DataFrame({"request_id": request_ids, "release": releases, "status": status, "score": score})

    def _ask(self, through: _OneGateway, route: Route, release: str, role: str, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """One release answers these rows: status and score of each."""
        predictor = self._deployments.predictor(route.endpoints.get(release, ""))
        status, score = np.full(len(rows), NOT_RUNNING), np.full(len(rows), np.nan)
        if len(rows) == 0:
            return status, score
        if predictor is not None:
            score = _score(predictor, rows)
            status = np.where(np.isfinite(score), OK, FAILED)
        latency = float(self.latency_ms(release))
        counted = Traffic(len(rows), int((status != OK).sum()), _bucket(latency, len(rows)))
        through.traffic[route.model, release] = through.traffic.get((route.model, release), Traffic()) + counted
        answered = status == OK
        if answered.any():
            threshold = predictor.signature.decision_threshold if isinstance(predictor, SignedPredictor) else 0.5
            answers = self._answers(rows[answered], route.model, release, role, score[answered], threshold, latency)
            if isinstance(predictor, SignedPredictor):
                answers = concealed(answers, predictor.signature, self.pii_key)
            self._log.append(route.model, answers)
        return status, score

    def _answers(
        self, rows: pd.DataFrame, model: str, release: str, role: str, score: np.ndarray, threshold: float, latency_ms: float
    ) -> pd.DataFrame:
        request_ids = rows["request_id"].astype(str)
        fixed = {
            "request_id": request_ids.to_numpy(object),
            "release": release,
            "role": role,
            "unit": rows["unit"].where(rows["unit"].notna(), request_ids).astype(str).to_numpy(object),
            "score": score,
            "decision": score >= threshold,
            "latency_ms": latency_ms,
            "logged_at": pd.Timestamp(self._clock()).tz_convert("UTC"),
            "event_time": pd.to_datetime(rows["event_time"], utc=True).reset_index(drop=True),
            "model": model,
        }
        frame = pd.DataFrame(fixed)
        for name in _features(rows):
            frame[FEATURE_PREFIX + name] = rows[name].to_numpy()
        for name in rows.columns:
            if str(name).startswith((ENTITY_PREFIX, REQUEST_PREFIX)):
                frame[name] = rows[name].to_numpy()
        return frame.astype({"logged_at": "datetime64[us, UTC]", "event_time": "datetime64[us, UTC]"})

    def _require_ready(self, route: Route, before: Route | None) -> None:
        """As Envoy's health checks do: a release that has traffic already is not asked again."""
        had = {release: before.endpoints.get(release) for release in _used(before)} if before is not None else {}
        for release in _used(route):
            endpoint = route.endpoints.get(release)
            if not endpoint:
                raise NotReady(f"{release} gets traffic but has no endpoint; {route.model} keeps its route. Start the release first")
            if had.get(release) != endpoint and self._deployments.predictor(endpoint) is None:
                raise NotReady(f"{release} at {endpoint} is not healthy; {route.model} keeps its route. See the release's log")

    def _require_up(self) -> None:
        if self._down:
            raise Unavailable(f"gateway {', '.join(sorted(self._down))} does not answer: restart it")


def points(units: np.ndarray) -> np.ndarray:
    """Where units hash to in ``[0, 100)``, to a hundredth; shape as ``units``, which are strings."""
    return np.asarray(pd.util.hash_array(units, categorize=False) % 10_000) / 100


def _used(route: Route) -> list[str]:
    return sorted({share.release for share in route.shares} | ({route.mirror.release} if route.mirror else set()))


def _releases(route: Route | None, units: np.ndarray, request_ids: np.ndarray) -> np.ndarray:
    """Which release answers each row; an empty name where none does."""
    releases = np.full(len(units), "", dtype=object)
    if route is not None:
        known = np.where(pd.isna(units), request_ids, units)
        where = points(np.asarray([str(unit) for unit in known], dtype=object))
        for share in route.shares:
            releases[(where >= share.start) & (where < share.end)] = share.release
    return releases


def _require_columns(rows: pd.DataFrame) -> None:
    missing = [name for name in ROW_COLUMNS if name not in rows.columns]
    if missing:
        raise BadData(f"requests: columns {', '.join(missing)} are missing, got {', '.join(map(str, rows.columns))}: add them")


def _features(rows: pd.DataFrame) -> list[str]:
    return [str(name) for name in rows.columns if name not in ROW_COLUMNS and not str(name).startswith((ENTITY_PREFIX, REQUEST_PREFIX))]


def _score(predictor: Predictor, rows: pd.DataFrame) -> np.ndarray:
    """The scores, NaN where the predictor fails."""
    inputs = predictor.signature.inputs if isinstance(predictor, SignedPredictor) else [Feature(name) for name in _features(rows)]
    matrix = encode(inputs, {name: rows[name].tolist() for name in _features(rows)})
    try:
        scores = np.asarray(predictor(matrix), dtype=float)
    except Exception:
        return np.full(len(rows), np.nan)
    if scores.shape != (len(rows),):
        return np.full(len(rows), np.nan)
    return scores


def _bucket(latency_ms: float, requests: int) -> tuple[int, ...]:
    counts = [0] * (len(LATENCY_BOUNDS_MS) + 1)
    counts[bisect.bisect_left(LATENCY_BOUNDS_MS, latency_ms)] = requests
    return tuple(counts)
