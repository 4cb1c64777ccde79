"""What the gateway's files were made from: the routes of every model, in ``state.json``."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlops_assets.adapters.whole_file import replace_file
from mlops_assets.core.errors import BadData
from mlops_assets.core.policy import Mirror
from mlops_assets.core.routing import Route, Share

STATE = "state.json"


@dataclass(frozen=True)
class Entry:
    """One model's routes: the one in force, the one whose clusters are being warmed, and those that some gateway may still be on,
    oldest first."""

    active: Route | None = None
    announced: Route | None = None
    leaving: tuple[Route, ...] = ()

    @property
    def generation(self) -> int:
        """The newest generation that anybody asked for; -1 if nobody did."""
        return max((route.generation for route in (self.active, self.announced) if route is not None), default=-1)

    def endpoints(self) -> Mapping[str, str]:
        """The address of every release that a gateway may still send traffic to. The newest route's word counts."""
        merged: dict[str, str] = {}
        for route in (*self.leaving, self.active, self.announced):
            merged |= route.endpoints if route is not None else {}
        return merged


def read_state(directory: Path) -> dict[str, Entry]:
    """The entry of each model; empty before the first change.

    Raises:
        BadData: if the file cannot be understood.
    """
    path = directory / STATE
    try:
        document = json.loads(path.read_bytes())
        return {model: _entry(**entry) for model, entry in document.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"{path} is not the gateway's state ({type(error).__name__}: {error}); gateways keep the routes they have"
        raise BadData(f"{message}. Move the file away: the reconciler then writes every model's route again from its policy") from error


def write_state(directory: Path, state: Mapping[str, Entry]) -> None:
    """Replace the state. It survives a loss of power."""
    document = {model: asdict(entry) for model, entry in state.items()}
    replace_file(directory / STATE, json.dumps(document, indent=1), durable=True)


def _entry(active: Any, announced: Any, leaving: Any) -> Entry:
    before = [leaving] if isinstance(leaving, dict) else leaving or ()  # an early version kept one route or none
    return Entry(active and _route(active), announced and _route(announced), tuple(_route(value) for value in before))


def _route(value: Mapping[str, Any]) -> Route:
    shares = tuple(Share(**share) for share in value["shares"])
    mirror = Mirror(**value["mirror"]) if value["mirror"] is not None else None
    return Route(value["model"], value["generation"], shares, mirror, dict(value["endpoints"]))
