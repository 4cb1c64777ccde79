"""What a serving process is told by its environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from mlops_assets.core.errors import SpecError
from mlops_assets.core.pii import KEY_VARIABLE
from mlops_assets.core.serving_spec import LogDurability, OnLogFull, OnOnlineDown, Serving
from mlops_assets.settings import Settings
from serving.prediction_log import Limits

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Configuration:
    """One release to be served.

    Args:
        model: ``MLOPS_MODEL``.
        release: ``MLOPS_RELEASE``.
        digest: ``MLOPS_MODEL_DIGEST``, the SHA-256 of its ONNX file in hexadecimal.
        home: ``MLOPS_HOME``, where the model is kept and answers wait to be shipped.
        s3_url: ``MLOPS_S3_URL``.
        model_folder: ``MLOPS_MODEL_FOLDER``, which holds the model already, as ``<digest>.onnx``; none by default.
        threads: ``MLOPS_THREADS``, the most that one prediction may use; 1.
        timeout: ``MLOPS_TIMEOUT_SECONDS``, how long an answer may take if the request does not say; 5.
        workers: ``MLOPS_WORKERS``, how many processes answer; 1.
        replay: ``MLOPS_REPLAY=1`` lets requests carry an ``event_time``.
        limits: ``MLOPS_LOG_ROTATE_SECONDS`` and ``MLOPS_LOG_MAX_BYTES``; 60 seconds and 1 GiB.
        log_durability: ``MLOPS_LOG_DURABILITY``, ``write`` or ``fdatasync``: where a logged answer is before it is sent.
        on_log_full: ``MLOPS_ON_LOG_FULL``, ``count`` or ``refuse``: what happens to answers that cannot be logged.
        online_url: ``MLOPS_ONLINE_URL``, where the online features are; may hold a password. By default in a file of ``home``.
        online_timeout: ``MLOPS_ONLINE_TIMEOUT_SECONDS``, how long a request waits for them; 0.05.
        on_online_down: ``MLOPS_ON_ONLINE_DOWN``, ``fill`` or ``refuse``: what happens when they cannot be had.
        pii_key: ``MLOPS_PII_KEY``, a secret with which fields that the model marks ``pii: hash`` are hashed before they are logged.
    """

    model: str
    release: str
    digest: str
    home: Path
    s3_url: str
    model_folder: Path | None = None
    threads: int = Serving.threads
    workers: int = Serving.workers
    timeout: float = Serving.timeout.total_seconds()
    replay: bool = False
    limits: Limits = field(default_factory=Limits)
    log_durability: LogDurability = "write"
    on_log_full: OnLogFull = "count"
    online_url: str = field(default="", repr=False)
    online_timeout: float = Serving.online_timeout.total_seconds()
    on_online_down: OnOnlineDown = "fill"
    pii_key: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Configuration:
        """Read the environment; :class:`SpecError` if something is missing or cannot be so."""
        settings, limits = Settings.from_environment(), Limits()
        return cls(
            model=_read(environment, "MLOPS_MODEL", _NAME, "a model's name"),
            release=_read(environment, "MLOPS_RELEASE", _NAME, "a release such as v3"),
            digest=_read(environment, "MLOPS_MODEL_DIGEST", _DIGEST, "64 hexadecimal digits"),
            home=settings.home,
            s3_url=settings.s3_url,
            model_folder=Path(folder) if (folder := environment.get("MLOPS_MODEL_FOLDER")) else None,
            threads=int(_positive(environment, "MLOPS_THREADS", cls.threads)),
            workers=int(_positive(environment, "MLOPS_WORKERS", cls.workers)),
            timeout=_positive(environment, "MLOPS_TIMEOUT_SECONDS", cls.timeout),
            replay=environment.get("MLOPS_REPLAY") == "1",
            limits=Limits(
                _positive(environment, "MLOPS_LOG_ROTATE_SECONDS", limits.rotate_seconds),
                int(_positive(environment, "MLOPS_LOG_MAX_BYTES", limits.max_bytes)),
            ),
            log_durability=_chosen(environment, "MLOPS_LOG_DURABILITY", get_args(LogDurability), "write"),
            on_log_full=_chosen(environment, "MLOPS_ON_LOG_FULL", get_args(OnLogFull), "count"),
            online_url=settings.online_url,
            online_timeout=_positive(environment, "MLOPS_ONLINE_TIMEOUT_SECONDS", cls.online_timeout),
            on_online_down=_chosen(environment, "MLOPS_ON_ONLINE_DOWN", get_args(OnOnlineDown), "fill"),
            pii_key=environment.get(KEY_VARIABLE, ""),
        )


def _read(environment: Mapping[str, str], name: str, pattern: re.Pattern[str], expected: str) -> str:
    value = environment.get(name, "")
    if not pattern.fullmatch(value):
        raise SpecError(f"{name}: got {value!r}, expected {expected}: set it in the environment of the serving process")
    return value


def _chosen(environment: Mapping[str, str], name: str, known: Sequence[str], default: str) -> Any:
    value = environment.get(name, default)
    if value not in known:
        raise SpecError(f"{name}: got {value!r}, expected {' or '.join(known)}: correct it in the environment of the serving process")
    return value


def _positive(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise SpecError(f"{name}: got {text!r}, expected a number above 0: correct it in the environment of the serving process")
    return max(1.0, value) if name in ("MLOPS_THREADS", "MLOPS_WORKERS") else value
