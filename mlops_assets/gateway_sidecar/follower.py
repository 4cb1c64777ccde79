"""Follows the policies in the object store: what changes there is in force at the gateway a moment later."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from mlops_assets.adapters.codec import decode
from mlops_assets.adapters.envoy import EnvoyGateway
from mlops_assets.adapters.s3 import POLICY_BUCKET
from mlops_assets.core.errors import MlopsError, Unavailable
from mlops_assets.core.policy import Policy
from mlops_assets.core.routing import Route, Share, drill_of, route
from mlops_assets.ports import Clock, ObjectStore

_log = logging.getLogger(__name__)

_PREFIX, _SUFFIX = f"{POLICY_BUCKET}/", ".json"


@dataclass(frozen=True)
class Trouble:
    """Why a route is not in force. ``kind`` is the name of the error's class."""

    generation: int
    kind: str
    message: str


@dataclass
class _Followed:
    """One model: its policy, the route that is being put in force, and the one that is. ``last_trouble`` is of the last try."""

    etag: str
    policy: Policy
    on_the_way: Route | None = None
    in_force: Route | None = None
    trouble: Trouble | None = None
    last_trouble: Trouble | None = None


class Follower:
    """Keeps one gateway as the policies say.

    Args:
        objects: where the policies are.
        gateway: the gateway beside this process.
        endpoint: where a release of a model answers, ``host:port``.
        clock: warm releases are warm until a time.
    """

    def __init__(self, objects: ObjectStore, gateway: EnvoyGateway, endpoint: Callable[[str, str], str], clock: Clock) -> None:
        self._objects, self._gateway, self._endpoint, self._clock = objects, gateway, endpoint, clock
        self._models: dict[str, _Followed] = {}
        self._unread: dict[str, MlopsError] = {}
        self._lock = threading.Lock()
        self._has_looked = self._was_ready = False
        self._away = ""

    @property
    def waits_for(self) -> str:
        """What has to be in force before this gateway may be asked; empty if nothing, and from then on: a model that comes later, and has
        no route yet, must not take the gateway from all others."""
        told = "" if self._was_ready else self._first_routes()
        self._was_ready = not told
        return told

    def _first_routes(self) -> str:
        if not self._has_looked:
            return "the policies were not read yet"
        late = [name for name, model in self._models.items() if model.in_force is None and model.last_trouble is None]
        # A store that starts names objects before it gives them back. For a policy that nobody can read a gateway would wait in vain.
        late += [name for name, error in self._unread.items() if name not in self._models and isinstance(error, Unavailable)]
        return f"the routes of {', '.join(sorted(late))} are not in force yet" if late else ""

    def trouble(self, model: str) -> Trouble | None:
        """Why the newest route of a model could not be put in force; None if it is, or is being tried."""
        followed = self._models.get(model)
        return followed.trouble if followed is not None else None

    def look(self) -> None:
        """Look what has changed, and begin to put it in force. One look at a time.

        Raises:
            Unavailable: if the object store does not answer. The gateway goes on with what it has.
        """
        with self._lock:
            unread: dict[str, MlopsError] = {}
            for entry in self._objects.list(_PREFIX):
                name = entry.key.removeprefix(_PREFIX).removesuffix(_SUFFIX)
                if not entry.key.endswith(_SUFFIX):
                    continue
                known = self._models.get(name)
                if known is None or known.etag != entry.etag:
                    try:
                        self._read(name, entry.key, entry.etag)
                    except MlopsError as error:
                        unread[name] = error
                        if str(error) != str(self._unread.get(name)):
                            _log.error("the gateway keeps its routes of %s: %s", name, error)
            self._unread = unread
            for followed in self._models.values():
                self._begin(followed)
            self._has_looked = True

    def follow(self, ended: threading.Event, seconds: float) -> None:
        """Look every so many ``seconds`` until ``ended``. An object store that is away is told of once."""
        while not ended.wait(seconds):
            try:
                self.look()
            except MlopsError as error:
                if str(error) != self._away:
                    _log.warning("the gateway keeps its routes: %s", error)
                self._away = str(error)
            else:
                if self._away:
                    _log.warning("the policies can be read again")
                self._away = ""

    def drill(self, model: str, release: str | None, generation: int) -> None:
        """Put a route to a release in force that nobody takes, or one to nowhere. Errors as of :meth:`EnvoyGateway.apply`."""
        shares = (Share(release, 0, 100),) if release else ()
        endpoints = {release: self._endpoint(model, release)} if release else {}
        self._gateway.apply(Route(drill_of(model), generation, shares, None, endpoints))

    def _read(self, name: str, key: str, etag: str) -> None:
        policy = decode(Policy, self._objects.get(key), key)
        known = self._models.setdefault(name, _Followed(etag, policy))
        known.etag, known.policy = etag, policy

    def _begin(self, followed: _Followed) -> None:
        """Put in force what is not. A thread each: a release that is waited for must not keep a rollback waiting, of its own model or
        another's; of two routes of a model that are on their way at once the gateway takes the newer."""
        policy, now = followed.policy, self._clock()
        wanted = route(policy, {release: self._endpoint(policy.model, release) for release in policy.live_releases(now)}, now)
        if wanted in (followed.on_the_way, followed.in_force):
            return
        followed.on_the_way, followed.trouble = wanted, None
        threading.Thread(target=self._apply, args=(followed, wanted), name=f"route-{policy.model}", daemon=True).start()

    def _apply(self, followed: _Followed, wanted: Route) -> None:
        try:
            self._gateway.apply(wanted)
        except MlopsError as error:
            trouble = Trouble(wanted.generation, type(error).__name__, str(error))
            if followed.on_the_way is wanted:
                if followed.last_trouble != trouble:
                    _log.warning("%s", error)
                followed.trouble = followed.last_trouble = trouble
        else:
            if followed.on_the_way is wanted:
                followed.in_force, followed.last_trouble = wanted, None
                _log.info("%s follows generation %d", wanted.model, wanted.generation)
        finally:
            if followed.on_the_way is wanted:
                followed.on_the_way = None
