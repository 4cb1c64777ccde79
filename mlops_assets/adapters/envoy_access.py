"""Who may ask models: callers with a token, with a certificate, or everybody who reaches the gateway."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlops_assets.core.errors import SpecError

TOKENS_VARIABLE, TLS_VARIABLE, CALLERS_VARIABLE = "MLOPS_CLIENT_TOKENS", "MLOPS_GATEWAY_TLS", "MLOPS_GATEWAY_CLIENT_CA"
_TYPE = "type.googleapis.com/envoy."
_CERTIFICATE, _KEY = "tls.crt", "tls.key"


@dataclass(frozen=True)
class Access:
    """What a caller of the gateway has to bring. The gateway's own health, where it has a port for it, is told to everybody.

    Args:
        tokens: ``MLOPS_CLIENT_TOKENS``, separated by commas; a caller sends one as ``authorization: Bearer ...``, and gets a 401 without.
            Two at once let callers change theirs one after the other. No release sees them.
        tls: ``MLOPS_GATEWAY_TLS``, a folder with ``tls.crt`` and ``tls.key`` (PEM), as cert-manager and Kubernetes name them. Files that
            are put in the place of others (as Kubernetes, cert-manager and ``mv`` do) are read anew.
        callers: ``MLOPS_GATEWAY_CLIENT_CA``, the certificates (PEM) of those who sign for callers: each has to show a certificate (mTLS).

    Raises:
        SpecError: if a file is missing or cannot be used, or a token is not fit for a header.
    """

    tokens: tuple[str, ...] = field(default=(), repr=False)
    tls: Path | None = None
    callers: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Access:
        """What the environment says."""
        said = environment.get(TOKENS_VARIABLE, "")
        tokens = tuple(dict.fromkeys(token.strip() for token in said.split(",") if token.strip()))
        if said and not tokens:
            raise SpecError(f"{TOKENS_VARIABLE}: got no token between commas and spaces, expected one at least, or nothing at all")
        folder, callers = environment.get(TLS_VARIABLE, ""), environment.get(CALLERS_VARIABLE, "")
        return cls(tokens, Path(folder).absolute() if folder else None, Path(callers).absolute() if callers else None)

    def __post_init__(self) -> None:
        if any(not token.isascii() or not token.isprintable() or " " in token for token in self.tokens):
            raise SpecError(f"{TOKENS_VARIABLE}: got a token that a header cannot carry, expected ASCII letters, digits and signs")
        missing = [name for name in (_CERTIFICATE, _KEY) if self.tls is not None and not (self.tls / name).is_file()]
        if missing:
            raise SpecError(
                f"{TLS_VARIABLE}: got {self.tls} without {' and '.join(missing)}, expected a folder with {_CERTIFICATE} and {_KEY} in PEM"
            )
        if self.callers is not None and self.tls is None:
            raise SpecError(f"{CALLERS_VARIABLE}: got {self.callers} without {TLS_VARIABLE}, expected both: a caller shows his by TLS")
        if self.callers is not None and not self.callers.is_file():
            raise SpecError(f"{CALLERS_VARIABLE}: got {self.callers}, which is no file, expected certificates of authorities in PEM")
        self._require_readable()

    def _require_readable(self) -> None:
        """Envoy would start without a certificate that it cannot read, and refuse everybody."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            if self.tls is not None:
                context.load_cert_chain(self.tls / _CERTIFICATE, self.tls / _KEY, password="")
        except (ssl.SSLError, OSError) as error:
            raise SpecError(
                f"{TLS_VARIABLE}: {_CERTIFICATE} and {_KEY} in {self.tls} cannot be used ({error}), expected a certificate in PEM "
                f"and its own key without a password"
            ) from error
        try:
            if self.callers is not None:
                context.load_verify_locations(self.callers)
        except (ssl.SSLError, OSError) as error:
            raise SpecError(f"{CALLERS_VARIABLE}: {self.callers} cannot be used ({error}), expected certificates in PEM") from error

    def filters(self) -> list[dict[str, Any]]:
        """Envoy's filters that let through who may ask."""
        if not self.tokens:
            return []
        told = {
            "@type": f"{_TYPE}extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
            "credentials": [{"key": token, "client": f"caller-{number}"} for number, token in enumerate(self.tokens)],
            "key_sources": [{"header": "authorization"}],
            "forwarding": {"hide_credentials": True},
        }
        return [{"name": "envoy.filters.http.api_key_auth", "typed_config": told}]

    def transport(self, directory: Path) -> dict[str, Any]:
        """What a listener's chain of filters says of TLS; nothing without it. ``directory`` has the files of :meth:`secrets`."""
        if self.tls is None:
            return {}

        def secret(name: str) -> dict[str, Any]:
            source = {"path_config_source": {"path": str(directory / _secret_file(name))}, "resource_api_version": "V3"}
            return {"name": name, "sds_config": source}

        common: dict[str, Any] = {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificate_sds_secret_configs": [secret("gateway")],
        }
        if self.callers is not None:
            common["validation_context_sds_secret_config"] = secret("callers")
        context = {
            "@type": f"{_TYPE}extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": common,
            "require_client_certificate": self.callers is not None,
        }
        return {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}

    def secrets(self) -> dict[str, str]:
        """A file for each of Envoy's secrets, by its name: where certificates lie. Envoy looks there when they change."""
        if self.tls is None:
            return {}
        own = {"certificate_chain": _file(self.tls / _CERTIFICATE), "private_key": _file(self.tls / _KEY), **_watched(self.tls)}
        found = {_secret_file("gateway"): _secret("gateway", tls_certificate=own)}
        if self.callers is not None:
            trusted = {"trusted_ca": _file(self.callers), **_watched(self.callers.parent)}
            found[_secret_file("callers")] = _secret("callers", validation_context=trusted)
        return found


OPEN = Access()
"""Everybody who reaches the gateway may ask."""


def _secret_file(name: str) -> str:
    return f"sds-{name}.json"


def _secret(name: str, **what: Any) -> str:
    return json.dumps({"resources": [{"@type": f"{_TYPE}extensions.transport_sockets.tls.v3.Secret", "name": name, **what}]})


def _watched(folder: Path) -> dict[str, Any]:
    return {"watched_directory": {"path": str(folder)}}


def _file(path: Path) -> dict[str, str]:
    return {"filename": str(path)}
