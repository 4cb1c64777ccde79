"""What one asks a running release directly, past the gateway: whether it is ready, and for scores."""

import http.client
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlops_assets.core.errors import BadData, Unavailable

ROWS_AT_ONCE = 1000


def answers_ready(endpoint: str, path: str = "/ready", timeout: float = 0.5) -> bool:
    """Whether ``GET path`` of ``host:port`` answers 200 within ``timeout`` seconds."""
    connection = http.client.HTTPConnection(endpoint, timeout=timeout)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def scores(endpoint: str, model: str, rows: Sequence[Mapping[str, Any]], timeout: float = 30.0) -> Sequence[float]:
    """The scores of the release at ``endpoint`` (``host:port``) for rows of inputs, in their order. Missing values are null or NaN.

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
    connection = http.client.HTTPConnection(endpoint, timeout=timeout)
    # As a shadow's: what a test asks must not count in drift and performance. A thousand rows may take longer than one request of a user.
    headers = {"host": f"{model}-shadow", "content-type": "application/json", "x-request-timeout-ms": str(int(1000 * timeout))}
    try:
        connection.request("POST", "/predict", body, headers)
        response = connection.getresponse()
        text = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            f"the release of {model} at {endpoint} does not answer ({error}): see its log, it is started again by itself"
        ) from error
    finally:
        connection.close()
    if response.status != 200:
        refused = BadData if response.status == 422 else Unavailable
        raise refused(f"the release of {model} at {endpoint} got {response.status}, expected 200: {text[:500].decode(errors='replace')}")
    return json.loads(text)
