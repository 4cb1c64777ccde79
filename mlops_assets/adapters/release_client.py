"""What one asks a running release directly, past the gateway: whether it is ready, and for scores."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlops_assets.adapters.plain_http import NoAnswer, ask
from mlops_assets.core.errors import BadData, Unavailable
from mlops_assets.ports import Deployment

ROWS_AT_ONCE = 1000


class AskedAtItsEndpoint:
    """The part of :class:`~mlops_assets.ports.Deployments` that is the same wherever an endpoint is one release's alone."""

    def predict(self, deployment: Deployment, rows: Sequence[Mapping[str, Any]]) -> Sequence[float]:
        """The scores that this very release answers to rows of inputs. It logs them as a shadow's.

        Raises:
            BadData: if the release refuses the rows.
            Unavailable: if it does not answer, or fails.
        """
        return scores(deployment.endpoint, deployment.model, rows)


def place(endpoint: str, path: str) -> tuple[str, str]:
    """Where a path of the release at ``endpoint`` is asked for: ``host:port``, and the path, below the endpoint's own if it has one.

    >>> place("127.0.0.1:8000/flight-delay.v12", "/ready")
    ('127.0.0.1:8000', '/flight-delay.v12/ready')
    >>> place("127.0.0.1:8000", "/ready")
    ('127.0.0.1:8000', '/ready')
    """
    netloc, slash, below = endpoint.partition("/")
    return netloc, slash + below + path


def answers_ready(endpoint: str, path: str = "/ready", timeout: float = 0.5) -> bool:
    """Whether ``GET path`` of a release answers 200 within ``timeout`` seconds."""
    netloc, below = place(endpoint, path)
    try:
        return ask(netloc, "GET", below, timeout).status == 200
    except NoAnswer:
        return False


def scores(endpoint: str, model: str, rows: Sequence[Mapping[str, Any]], timeout: float = 30.0) -> Sequence[float]:
    """The scores of the release at ``endpoint`` for rows of inputs, in their order. Missing values are null or NaN.

    Raises:
        BadData: if the release refuses the rows.
        Unavailable: if it does not answer, or fails.
    """
    found: list[float] = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        asked = [
            {"inputs": {name: None if _is_nan(value) else value for name, value in row.items()}}
            for row in rows[start : start + ROWS_AT_ONCE]
        ]
        answer = _post(endpoint, model, json.dumps({"rows": asked}), timeout)
        found += [float(prediction["score"]) for prediction in answer["predictions"]]
    return found


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _post(endpoint: str, model: str, body: str, timeout: float) -> Any:
    # As a shadow's: what a test asks must not count in drift and performance. A thousand rows may take longer than one request of a user.
    headers = {"host": f"{model}-shadow", "content-type": "application/json", "x-request-timeout-ms": str(int(1000 * timeout))}
    netloc, path = place(endpoint, "/predict")
    try:
        answer = ask(netloc, "POST", path, timeout, body, headers)
    except NoAnswer as error:
        raise Unavailable(
            f"the release of {model} at {endpoint} does not answer ({error}): see its log, it is started again by itself"
        ) from error
    if answer.status != 200:
        refused = BadData if answer.status == 422 else Unavailable
        raise refused(f"the release of {model} at {endpoint} got {answer.status}, expected 200: {answer.beginning(500)}")
    return json.loads(answer.body)
