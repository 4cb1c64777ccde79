"""Gateways that follow the policies by themselves: real Envoys, each with our process's parts beside it."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from mlops_assets.adapters.codec import encode
from mlops_assets.adapters.envoy_admin import EnvoyAdmin
from mlops_assets.adapters.gateway_sidecars import SidecarGateway
from mlops_assets.adapters.memory import MemoryObjectStore
from mlops_assets.core.errors import NotReady, Unavailable
from mlops_assets.core.policy import Mirror, Policy
from mlops_assets.core.routing import Route, Share, drill_of, route
from mlops_assets.gateway_sidecar.__main__ import drain
from mlops_assets.gateway_sidecar.follower import Follower
from mlops_assets.gateway_sidecar.server import Face, server
from tests.servers import EnvoyServer, Upstream, ask, eventually, free_port

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
TOKEN = "a-token-of-a-test"


@dataclass
class Cluster:
    """Two gateways that follow one store of policies. ``endpoints`` stands for the names that a cluster's DNS knows."""

    store: MemoryObjectStore
    gateways: dict[str, EnvoyServer]
    followers: dict[str, Follower]
    sidecars: list[str]
    endpoints: dict[tuple[str, str], str]
    now: datetime = NOW

    def write(self, policy: Policy) -> None:
        self.store.put(f"policies/{policy.model}.json", encode(policy))

    def look(self) -> None:
        for follower in self.followers.values():
            follower.look()

    def platform(self, **how: object) -> SidecarGateway:
        return SidecarGateway(self.sidecars, TOKEN, **how)  # type: ignore[arg-type]

    def apply(self, policy: Policy) -> None:
        self.write(policy)
        self.platform().apply(route(policy, {}, NOW))

    def who(self, model: str) -> list[str | None]:
        return [gateway.predict(model).release for gateway in self.gateways.values()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(MemoryObjectStore(), {}, {}, [], {})
    listening = []
    for name in ("gateway-a", "gateway-b"):
        envoy = EnvoyServer(tmp_path_factory.mktemp(name))
        envoy.start()
        from mlops_assets.adapters.envoy import EnvoyGateway

        gateway = EnvoyGateway(envoy.directory, {name: envoy.admin_url}, healthy_within=3.0)
        follower = Follower(made.store, gateway, lambda model, release: made.endpoints[model, release], lambda: made.now)
        face = Face(name, follower, gateway, EnvoyAdmin(name, envoy.admin_url).metrics, TOKEN)
        listening.append(server(face, "127.0.0.1", 0))
        threading.Thread(target=listening[-1].serve_forever, args=(0.05,), daemon=True).start()
        made.gateways[name], made.followers[name] = envoy, follower
        made.sidecars.append(f"127.0.0.1:{listening[-1].server_port}")
    yield made
    for each in listening:
        each.shutdown()
        each.server_close()
    for envoy in made.gateways.values():
        envoy.stop()


@pytest.fixture
def released(cluster, upstream) -> Callable[..., Upstream]:
    """Run a release that answers, where the cluster's names say it does."""

    def run(model: str, release: str, **how: object) -> Upstream:
        started = upstream(release, **how)
        cluster.endpoints[model, release] = started.endpoint
        return started

    return run


def live(model: str, generation: int, **weights: int) -> Policy:
    return Policy(model, generation, champions=tuple(weights), weights=weights)


def test_a_policy_that_is_written_is_in_force_at_every_gateway(cluster, released):
    released("simple", "v1")
    cluster.apply(live("simple", 4, v1=100))
    assert cluster.platform().applied("simple") == {"gateway-a": 4, "gateway-b": 4}
    assert cluster.who("simple") == ["v1", "v1"]


def test_a_gateway_whose_store_names_a_policy_and_does_not_give_it_back_is_not_ready():
    store = MemoryObjectStore()
    store.put("policies/slow.json", encode(live("slow", 1)))
    store.put("policies/broken.json", b"{ half")
    get, away = store.get, True

    def starting(key: str) -> bytes:
        if away and "slow" in key:
            raise Unavailable("the object store failed (InternalError 500)")
        return get(key)

    store.get = starting  # type: ignore[method-assign]
    follower = Follower(store, NoGateway(), lambda model, release: "", lambda: NOW)  # type: ignore[arg-type]
    for _ in range(2):
        follower.look()
        assert follower.waits_for == "the routes of slow are not in force yet"
    away = False
    follower.look()
    eventually(lambda: follower.waits_for == "")
    away = True
    store.put("policies/slow-too.json", encode(live("slow-too", 1)))
    follower.look()
    assert follower.waits_for == "", "who is ready stays so for all others"


class NoGateway:
    def apply(self, route: Route) -> None:
        """In force at once."""


def test_nobody_has_to_tell_a_gateway_that_a_policy_changed(cluster, released):
    released("alone", "v1"), released("alone", "v2")
    cluster.apply(live("alone", 1, v1=100))
    ended = threading.Event()
    threads = [threading.Thread(target=follower.follow, args=(ended, 0.1)) for follower in cluster.followers.values()]
    for thread in threads:
        thread.start()
    try:
        cluster.write(live("alone", 2, v2=100))
        eventually(lambda: cluster.who("alone") == ["v2", "v2"])
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_a_rollback_to_a_warm_release_reaches_the_last_gateway_within_two_seconds(cluster, released):
    released("quick", "v1"), released("quick", "v2")
    until = NOW + timedelta(days=1)
    cluster.apply(Policy("quick", 1, champions=("v1", "v2"), weights={"v2": 100}, warm={"v1": until}))
    took = []
    for generation in range(2, 8):
        to, warm = ("v1", "v2") if generation % 2 == 0 else ("v2", "v1")
        began = time.perf_counter()
        cluster.apply(Policy("quick", generation, champions=("v1", "v2"), weights={to: 100}, warm={warm: until}))
        took.append(time.perf_counter() - began)
        assert cluster.who("quick") == [to, to]
    assert sorted(took)[len(took) // 2] < 2


def test_a_release_that_is_not_ready_gets_no_traffic_until_it_is(cluster, released):
    released("sick", "v1")
    v2 = released("sick", "v2", ready=False)
    cluster.apply(live("sick", 1, v1=100))
    cluster.write(live("sick", 2, v2=100))
    with pytest.raises(NotReady, match=r"no healthy answer for all of sick\.v2"):
        cluster.platform().apply(route(live("sick", 2, v2=100), {}, NOW))
    assert cluster.who("sick") == ["v1", "v1"]
    v2.ready = True
    cluster.apply(live("sick", 2, v2=100))
    assert cluster.who("sick") == ["v2", "v2"]


def test_a_newer_policy_does_not_wait_for_a_release_that_an_older_one_waits_for(cluster, released):
    released("hasty", "v1"), released("hasty", "v2", ready=False), released("other", "v1")
    cluster.apply(live("hasty", 1, v1=100))
    cluster.write(Policy("hasty", 2, champions=("v1",), weights={"v1": 100}, mirror=Mirror("v2", 100)))
    cluster.look()
    began = time.perf_counter()
    cluster.apply(live("hasty", 3, v1=100))
    cluster.apply(live("other", 1, v1=100))
    assert time.perf_counter() - began < 2
    assert cluster.platform().applied("hasty") == {"gateway-a": 3, "gateway-b": 3}


def test_without_the_store_of_policies_a_gateway_goes_on_and_says_that_it_may_be_asked(cluster, released, monkeypatch):
    released("orphan", "v1")
    cluster.apply(live("orphan", 1, v1=100))

    def away(*_: object) -> None:
        raise Unavailable("the object store does not answer")

    monkeypatch.setattr(cluster.store, "list", away)
    ended = threading.Event()
    following = threading.Thread(target=cluster.followers["gateway-a"].follow, args=(ended, 0.02))
    following.start()
    time.sleep(0.2)
    assert following.is_alive()
    ended.set()
    following.join()
    assert cluster.who("orphan") == ["v1", "v1"]
    assert ask_sidecar(cluster, "/ready", token="").status == 200


def test_an_unreadable_policy_keeps_its_routes_and_does_not_concern_other_models(cluster, released):
    released("torn", "v1"), released("whole", "v1")
    cluster.apply(live("torn", 1, v1=100))
    cluster.store.put("policies/torn.json", b"{ half")
    cluster.apply(live("whole", 1, v1=100))
    assert cluster.who("torn") == ["v1", "v1"]
    cluster.store.delete("policies/torn.json")


def test_a_new_gateway_is_not_asked_before_its_routes_are_in_force(cluster, released, tmp_path):
    from mlops_assets.adapters.envoy import EnvoyGateway

    released("early", "v1")
    cluster.apply(live("early", 1, v1=100))
    envoy = EnvoyServer(tmp_path)
    gateway = EnvoyGateway(tmp_path, {"new": envoy.admin_url}, healthy_within=3.0)
    new = Follower(cluster.store, gateway, lambda model, release: cluster.endpoints[model, release], lambda: NOW)
    face = Face("new", new, gateway, lambda: b"")
    with pytest.raises(NotReady, match="not read yet"):
        face.get("/ready")
    envoy.start()
    try:
        new.look()
        eventually(lambda: new.waits_for == "")
        assert face.get("/ready") == {"ready": True}
        assert envoy.predict("early").release == "v1"
    finally:
        envoy.stop()


def test_a_warm_release_is_let_go_when_its_time_is_over(cluster, released):
    released("warm", "v1"), released("warm", "v2")
    cluster.now = NOW
    cluster.apply(Policy("warm", 1, champions=("v1", "v2"), weights={"v2": 100}, warm={"v1": NOW + timedelta(hours=1)}))

    def clusters() -> list[str]:
        resources = json.loads((cluster.gateways["gateway-a"].directory / "cds.json").read_text())["resources"]
        return [each["name"] for each in resources if each["name"].startswith("warm.")]

    eventually(lambda: clusters() == ["warm.v1", "warm.v2"])
    cluster.now = NOW + timedelta(hours=2)
    cluster.look()
    eventually(lambda: clusters() == ["warm.v2"])
    cluster.now = NOW


def test_each_gateway_counts_for_itself(cluster, released):
    released("counted", "v1")
    cluster.apply(live("counted", 1, v1=100))
    for _ in range(3):
        cluster.gateways["gateway-a"].predict("counted")
    cluster.gateways["gateway-b"].predict("counted")

    def requests() -> dict[str, int]:
        return {sample.gateway: sample.traffic["v1"].requests for sample in cluster.platform().sample("counted")}

    eventually(lambda: requests() == {"gateway-a": 3, "gateway-b": 1})
    eventually(lambda: sorted(sum(sample.traffic["v1"].latency) for sample in cluster.platform().sample("counted")) == [1, 3])
    metrics = ask_sidecar(cluster, "/metrics", token="").body.decode()
    [line] = [line for line in metrics.splitlines() if line.startswith("envoy_cluster_upstream_rq_completed{") and '"counted"' in line]
    assert 'release="v1"' in line
    assert line.endswith(" 3")


def test_a_gateway_that_does_not_answer_is_named_and_the_others_change(cluster, released):
    released("partly", "v1")
    cluster.write(live("partly", 1, v1=100))
    nobody = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match=f"the gateway at {nobody} does not answer"):
        SidecarGateway([*cluster.sidecars, nobody], TOKEN, within=1.0).apply(route(live("partly", 1, v1=100), {}, NOW))
    assert cluster.who("partly") == ["v1", "v1"]


def test_no_gateway_at_all_is_an_error_that_says_what_to_look_at():
    with pytest.raises(Unavailable, match="MLOPS_GATEWAYS"):
        SidecarGateway(["nowhere.invalid:9902"]).applied("m")


def test_the_drills_route_is_taken_without_a_policy_and_goes_to_the_release_by_its_name(cluster, released):
    v1 = released("drilled", "v1")
    to = Route(drill_of("drilled"), 3, (Share("v1", 0, 100),), None, {"v1": "evil:1"})
    cluster.platform().apply(to)
    assert cluster.platform().applied(drill_of("drilled")) == {"gateway-a": 3, "gateway-b": 3}
    assert ask(cluster.gateways["gateway-b"].port, "/models/drilled.drill/predict").release == "v1"
    assert v1.seen
    cluster.platform().apply(Route(drill_of("drilled"), 4, (), None, {}))
    assert ask(cluster.gateways["gateway-a"].port, "/models/drilled.drill/predict").status == 503


def ask_sidecar(cluster: Cluster, path: str, token: str = TOKEN, method: str = "GET", body: bytes = b""):
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return ask(int(cluster.sidecars[0].rpartition(":")[2]), path, headers, method, body)


@pytest.mark.parametrize(
    ("path", "method", "body", "token", "status"),
    [
        ("/models/m", "GET", b"", "", 401),
        ("/look", "POST", b"", "wrong", 401),
        ("/look", "POST", b"", TOKEN, 200),
        ("/nothing", "GET", b"", TOKEN, 404),
        ("/drill/m", "POST", b"{", TOKEN, 400),
        ("/drill/m", "POST", b"{}", TOKEN, 400),
        ("/drill/m", "POST", b" " * 5000, TOKEN, 413),
    ],
)
def test_a_sidecar_answers_those_who_bring_the_token_and_understands_little_else(cluster, path, method, body, token, status):
    assert ask_sidecar(cluster, path, token, method, body).status == status


def test_a_gateway_that_drains_closes_connections_and_is_told_once(cluster, released, tmp_path):
    envoy = EnvoyServer(tmp_path)
    envoy.start()
    waited = []
    try:
        assert ask(envoy.port, "/v2/health/ready", method="GET", body=b"").headers.get("connection") != "close"
        drain(f"127.0.0.1:{envoy.admin_port}", 8.0, waited.append)
        assert ask(envoy.port, "/v2/health/ready", method="GET", body=b"").headers["connection"] == "close"
    finally:
        envoy.stop()
    drain(f"127.0.0.1:{envoy.admin_port}", 8.0, waited.append)
    assert waited == [8.0, 8.0]


def test_a_sidecar_imports_neither_dagster_nor_mlflow_nor_what_is_slow_to_load():
    done = "import sys, mlops_assets.gateway_sidecar.__main__ as m; m.S3ObjectStore(None).prepare(); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", done], capture_output=True, text=True, check=True).stdout.split()
    assert not {"dagster", "mlflow", "feast", "pandas", "numpy", "pydantic", "kubernetes"} & set(found)


def test_a_gateway_whose_certificates_are_missing_does_not_start_and_says_why(tmp_path):
    command = [sys.executable, "-m", "mlops_assets.gateway_sidecar", "prepare"]
    told = {**os.environ, "MLOPS_GATEWAY_HOME": str(tmp_path / "envoy"), "MLOPS_GATEWAY_TLS": str(tmp_path)}
    done = subprocess.run(command, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"MLOPS_GATEWAY_TLS: got {tmp_path} without tls.crt and tls.key" in done.stderr
    assert not (tmp_path / "envoy").exists()
