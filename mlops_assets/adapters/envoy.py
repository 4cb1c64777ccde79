"""The model gateway: Envoy, one or many, that follow the files of one folder.

A change is made in the order *cluster -> healthy -> route -> old cluster away*, so that no request meets a cluster that is not
there. The files outlive everything: a gateway that starts follows the last good ones.
"""

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mlops_assets.adapters.envoy_access import OPEN, Access
from mlops_assets.adapters.envoy_admin import Applied, EnvoyAdmin
from mlops_assets.adapters.envoy_config import HOST, bootstrap, cluster_name, clusters, route_digest, routes
from mlops_assets.adapters.envoy_state import Entry, read_state, write_state
from mlops_assets.adapters.whole_file import replace_file
from mlops_assets.core.errors import NotReady, Unavailable
from mlops_assets.core.evidence import GatewaySample
from mlops_assets.core.routing import Route

__all__ = ["EnvoyGateway", "bootstrap", "prepare"]

_POLL_SECONDS = 0.004


def prepare(directory: Path, port: int, admin_port: int, host: str = HOST, access: Access = OPEN, health_port: int | None = None) -> Path:
    """Write what Envoy needs to start, and return the path of its bootstrap. Routes that are there are kept."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, empty in (("cds.json", clusters(())), ("rds.json", routes(()))):
        if not (directory / name).exists():
            replace_file(directory / name, empty)
    target = directory / "bootstrap.json"
    for name, secret in access.secrets().items():
        replace_file(directory / name, secret)
    # it has the callers' tokens
    replace_file(target, bootstrap(directory, port, admin_port, host, access, health_port), private=True)
    return target


class EnvoyGateway:
    """Envoy as the :class:`~mlops_assets.ports.Gateway`.

    Args:
        directory: the folder whose files every gateway follows.
        admins: the admin address (``http://host:port``) of each gateway by its name.
        healthy_within: seconds that a release has to become healthy before a route to it is refused.
        applied_within: seconds that a gateway has to follow a new route.
    """

    follows_policies = False

    def __init__(self, directory: Path, admins: Mapping[str, str], healthy_within: float = 10.0, applied_within: float = 5.0) -> None:
        self._directory = directory
        self._admins = [EnvoyAdmin(name, url) for name, url in admins.items()]
        self._healthy_within = healthy_within
        self._applied_within = applied_within

    def apply(self, route: Route) -> None:
        """Make every gateway follow ``route`` and return when each reports it. An older generation is ignored.

        Raises:
            NotReady: if a release that is to get traffic for the first time is not healthy; the old route stays in force.
            Unavailable: if a gateway does not answer, or does not follow. The files are written: it follows once it starts.
            BadData: if the state file is unreadable.
        """
        down: dict[str, Unavailable] = {}
        before = read_state(self._directory).get(route.model, Entry()).active
        if not self._announce(route):
            return
        try:
            self._wait_healthy(route, before, down)
        except NotReady:
            self._withdraw(route)
            raise
        if not self._publish(route):
            return
        if not self._wait_applied(route, down):
            self._tidy(route)
        if down:
            raise Unavailable("; ".join(str(error) for error in down.values())) from next(iter(down.values()))

    def applied(self, model: str) -> Mapping[str, int]:
        """The generation that each gateway follows for ``model``, by gateway; -1 for one that knows no route to it.

        Raises:
            Unavailable: if a gateway does not answer.
        """
        nothing = Applied(-1, "")
        return {admin.name: admin.applied().get(model, nothing).generation for admin in self._admins}

    def sample(self, model: str) -> Sequence[GatewaySample]:
        """What each gateway has counted of the model's releases since its own start.

        Raises:
            Unavailable: if a gateway does not answer.
        """
        return [admin.sample(model) for admin in self._admins]

    def _announce(self, route: Route) -> bool:
        """Load the new clusters beside the old; False if a newer generation is known."""
        with self._locked() as state:
            entry = state.get(route.model, Entry())
            if route.generation < entry.generation:
                return False
            self._store(state, route.model, replace(entry, announced=route))
        return True

    def _withdraw(self, route: Route) -> None:
        """Forget a route that could not be put in force."""
        with self._locked() as state:
            entry = state.get(route.model, Entry())
            if entry.announced == route:
                self._store(state, route.model, replace(entry, announced=None))

    def _publish(self, route: Route) -> bool:
        """Put the route in force; False if somebody announced another one meanwhile, which then stands."""
        with self._locked() as state:
            entry = state[route.model]
            if entry.announced != route:
                return False
            # The same route again: whoever published it may have ended before gateways could read it, and left none of this undone.
            left = (entry.active,) if entry.active is not None and entry.active != route else ()
            self._store(state, route.model, Entry(active=route, leaving=(*entry.leaving, *left)))
            self._write("rds.json", routes(other.active for other in state.values() if other.active is not None))
        return True

    def _tidy(self, route: Route) -> None:
        """Unload the clusters that only the routes before needed."""
        with self._locked() as state:
            entry = state[route.model]
            if entry.active == route:
                self._store(state, route.model, replace(entry, leaving=()))

    def _store(self, state: dict[str, Entry], model: str, entry: Entry) -> None:
        state[model] = entry
        write_state(self._directory, state)
        known = [(name, release, address) for name, other in state.items() for release, address in other.endpoints().items()]
        self._write("cds.json", clusters(known))

    def _write(self, name: str, text: str) -> None:
        path = self._directory / name
        if not path.exists() or path.read_text() != text:
            replace_file(path, text)

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Entry]]:
        """The state, while nobody else changes it. Never held while waiting for a gateway: a rollback must not queue."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield read_state(self._directory)

    def _wait_healthy(self, route: Route, before: Route | None, down: dict[str, Unavailable]) -> None:
        """Wait for the releases that get traffic now and had none at their address before.

        One that has traffic already is not waited for: a canary must be left even while the champion stumbles.
        """
        had = _used(before) if before is not None else {}
        wanted = {(name, address) for name, address in _used(route).items() if had.get(name) != address}
        homeless = sorted(name for name, address in _used(route).items() if not address)
        if homeless:
            raise NotReady(
                f"{', '.join(homeless)} gets traffic but has no endpoint; {route.model} keeps its route. Start the release first"
            )
        asked = {(name, address.partition("/")[0]) for name, address in wanted}
        late = self._wait(lambda admin: asked <= set(admin.healthy()), self._healthy_within, down) if wanted else []
        if late:
            listed = ", ".join(f"{name} at {address}" for name, address in sorted(wanted))
            raise NotReady(
                f"gateway {late[0].name} got no healthy answer for all of {listed} within {self._healthy_within:g} s, expected 200 from "
                f"GET /v2/health/ready; {route.model} keeps its route. See the release's log"
            )

    def _wait_applied(self, route: Route, down: dict[str, Unavailable]) -> list[EnvoyAdmin]:
        """Wait until every gateway that answers follows; returns those that do not, which still need the clusters of a route before."""
        wanted = Applied(route.generation, route_digest(route))

        def follows(admin: EnvoyAdmin) -> bool:
            got = admin.applied().get(route.model, Applied(-1, ""))
            return got == wanted or got.generation > wanted.generation

        late = self._wait(follows, self._applied_within, down)
        for admin in late:
            down[admin.name] = Unavailable(
                f"gateway {admin.name} does not follow generation {route.generation} of {route.model} after {self._applied_within:g} s: "
                f"its log says what it refused, and it keeps its last good routes"
            )
        return late

    def _wait(self, reached: Callable[[EnvoyAdmin], bool], within: float, down: dict[str, Unavailable]) -> list[EnvoyAdmin]:
        """Wait for every gateway; returns those late after ``within`` seconds. One that does not answer goes to ``down``."""
        deadline = time.monotonic() + within
        waiting = [admin for admin in self._admins if admin.name not in down]
        while True:
            waiting = [admin for admin in waiting if not self._ask(admin, reached, down)]
            if not waiting or time.monotonic() >= deadline:
                return waiting
            time.sleep(_POLL_SECONDS)

    def _ask(self, admin: EnvoyAdmin, reached: Callable[[EnvoyAdmin], bool], down: dict[str, Unavailable]) -> bool:
        try:
            return reached(admin)
        except Unavailable as error:
            down[admin.name] = error
            return True


def _used(route: Route) -> dict[str, str]:
    """Cluster and address of each release that gets requests or copies of them; an empty address where none is known."""
    releases = {share.release for share in route.shares} | ({route.mirror.release} if route.mirror is not None else set())
    return {cluster_name(route.model, release): route.endpoints.get(release, "") for release in releases}
