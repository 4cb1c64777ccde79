"""MLflow's REST API, as far as the registry needs it. See ``docs/adr`` for why this is not MLflow's own client."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from mlops_assets.core.errors import AlreadyExists, MlopsError, NotFound, Unavailable

if TYPE_CHECKING:
    import httpx

_UPLOAD_SECONDS = 60.0


class MlflowApi:
    """Calls an MLflow server and translates its errors.

    Args:
        url: of the tracking server; a user and password in it are sent as basic authentication.
        timeout: seconds for one answer. A connection is tried twice, for a second each.
    """

    def __init__(self, url: str, timeout: float = 4.0) -> None:
        self._url, self._timeout = url.rstrip("/"), timeout

    def get(self, path: str, **query: str) -> Any:
        """Read; raises :class:`NotFound` or :class:`Unavailable`."""
        return self._call("GET", f"/api/2.0/mlflow/{path}", params=query)

    def post(self, path: str, **body: Any) -> Any:
        """Change; raises :class:`NotFound`, :class:`AlreadyExists` or :class:`Unavailable`."""
        return self._call("POST", f"/api/2.0/mlflow/{path}", json=body)

    def delete(self, path: str, **body: Any) -> Any:
        """Remove; raises :class:`NotFound` or :class:`Unavailable`."""
        return self._call("DELETE", f"/api/2.0/mlflow/{path}", json=body)

    def upload(self, artifact_uri: str, files: Mapping[str, bytes]) -> None:
        """Put files under a run's ``artifact_uri``, through the server.

        Raises:
            MlopsError: if the server does not take artifacts itself.
        """
        place = urlsplit(artifact_uri)
        if place.scheme != "mlflow-artifacts":
            raise MlopsError(
                f"MLflow keeps the artifacts of this run at {artifact_uri}, expected mlflow-artifacts:/...: "
                f"start the server with --serve-artifacts and --artifacts-destination"
            )
        for name, data in files.items():
            path = quote(f"{place.path.strip('/')}/{name}")
            self._call("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}", content=data, timeout=_UPLOAD_SECONDS)

    @cached_property
    def _client(self) -> httpx.Client:
        import httpx

        # the environment's proxies are not for a service of our own
        return httpx.Client(
            base_url=self._url,
            timeout=httpx.Timeout(self._timeout, connect=1.0),
            transport=httpx.HTTPTransport(retries=1),
            trust_env=False,
        )

    def _call(self, method: str, path: str, **how: Any) -> Any:
        import httpx

        try:
            answer = self._client.request(method, path, **how)
        except httpx.TransportError as error:
            raise Unavailable(f"MLflow at {self._where} does not answer ({error!r}): see 'mlops status' and its log") from error
        try:
            content = answer.json() if answer.content else {}
        except ValueError as error:
            raise Unavailable(f"MLflow at {self._where} answered {answer.status_code} without JSON: is it MLflow?") from error
        if answer.is_success:
            return content
        raise self._translated(answer.status_code, content)

    def _translated(self, status: int, content: Mapping[str, Any]) -> MlopsError:
        code, message = str(content.get("error_code", "")), str(content.get("message", content))
        if code == "RESOURCE_DOES_NOT_EXIST":
            return NotFound(f"MLflow: {message}: check the name")
        if code == "RESOURCE_ALREADY_EXISTS":
            return AlreadyExists(f"MLflow: {message}")
        if status in (401, 403):
            return Unavailable(f"MLflow at {self._where} refuses us ({status}): put user and password into MLFLOW_TRACKING_URI")
        if status >= 500 or status == 429:
            return Unavailable(f"MLflow at {self._where} failed ({status} {code}): try again, and see its log. {message}")
        return MlopsError(f"MLflow at {self._where} did not accept a request ({status} {code}): {message}")

    @property
    def _where(self) -> str:
        """The address without a password."""
        place = urlsplit(self._url)
        return f"{place.scheme}://{place.hostname}{f':{place.port}' if place.port else ''}{place.path}"
