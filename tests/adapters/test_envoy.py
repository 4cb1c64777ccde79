"""The gateway on a real Envoy."""

import json
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import pytest

from mlops_assets.adapters import envoy_config
from mlops_assets.adapters.envoy import EnvoyGateway
from mlops_assets.adapters.envoy_state import STATE, Entry, read_state
from mlops_assets.core.errors import BadData, NotReady, Unavailable
from mlops_assets.core.evidence import LATENCY_BOUNDS_MS, GatewaySample, Traffic
from mlops_assets.core.policy import Mirror
from mlops_assets.core.routing import Route, Share, offset
from tests.servers import HOST, EnvoyServer, Upstream, ask, eventually, free_port

UNITS = [f"unit-{number}" for number in range(300)]


def route(model: str, generation: int, weight: int, *releases: Upstream, mirror: Mirror | None = None) -> Route:
    """``weight`` percent to v2, the rest to v1, in the shares that the core would give."""
    start = offset(model, "v2")
    parts = (Share("v1", 0, start), Share("v2", start, start + weight), Share("v1", start + weight, 100))
    shares = tuple(part for part in parts if part.start < part.end) if 0 < weight < 100 else (Share("v2" if weight else "v1", 0, 100),)
    return Route(model, generation, shares, mirror, {release.name: release.endpoint for release in releases})


def who_answers(envoy: EnvoyServer, model: str) -> dict[str, str | None]:
    return {unit: envoy.predict(model, unit).release for unit in UNITS}


def test_an_applied_route_answers_with_its_release_and_every_gateway_reports_its_generation(envoy, upstream):
    v1 = upstream("v1")
    envoy.gateway().apply(route("first", 3, 0, v1))
    assert envoy.predict("first", "a").release == "v1"
    assert envoy.gateway().applied("first") == {"local": 3}
    assert v1.seen[0][0] == "/predict"


def test_the_open_inference_protocol_is_passed_on_with_its_path(envoy, upstream):
    v1 = upstream("v1")
    envoy.gateway().apply(route("protocol", 1, 0, v1))
    assert ask(envoy.port, "/v2/models/protocol/infer").release == "v1"
    assert ask(envoy.port, "/v2/models/protocol", method="GET").release == "v1"
    assert [path for path, _ in v1.seen] == ["/v2/models/protocol/infer", "/v2/models/protocol"]


def test_releases_may_share_an_address_each_below_a_path_of_its_own(envoy, upstream):
    shared = upstream("shared")
    endpoints = {release: f"{shared.endpoint}/below.{release}" for release in ("v1", "v2")}
    shares = (Share("v1", 0, 50), Share("v2", 50, 100))
    envoy.gateway().apply(Route("below", 1, shares, None, endpoints))
    assert {envoy.predict("below", unit).status for unit in UNITS} == {200}
    assert {path for path, _ in shared.seen} == {"/below.v1/predict", "/below.v2/predict"}
    shared.seen.clear()
    ask(envoy.port, "/v2/models/below/versions/v2/infer?some=thing")
    envoy.gateway().apply(Route("below", 2, shares[:1], Mirror("v2", 100), endpoints))
    envoy.predict("below", "unit")
    eventually(lambda: len(shared.seen) == 3)
    asked = sorted((path, headers["host"]) for path, headers in shared.seen)
    assert asked == [
        ("/below.v1/predict", "below"),
        ("/below.v2/predict", "below-shadow"),
        ("/below.v2/v2/models/below/versions/v2/infer?some=thing", "below"),
    ]


def test_a_request_that_is_tried_again_asks_for_the_same_path_below_its_release(envoy, monkeypatch):
    """All attempts share their headers. A route of ours tries again before a release has heard anything, which is harder to arrange."""
    monkeypatch.setattr(envoy_config, "_RETRY", {"retry_on": "reset", "num_retries": 1})
    asked: list[bytes] = []

    def close_the_first(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            path = connection.recv(65536).split(b" ")[1]
            if path.endswith(b"/ready"):
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            else:
                asked.append(path)
                if len(asked) > 1:
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                else:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            connection.close()

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=close_the_first, args=(listener,), daemon=True).start()
        endpoint = f"{HOST}:{listener.getsockname()[1]}/retried.v1"
        envoy.gateway().apply(Route("retried", 1, (Share("v1", 0, 100),), None, {"v1": endpoint}))
        assert envoy.predict("retried", "unit").status == 200
    assert asked == [b"/retried.v1/predict"] * 2


def test_who_names_a_release_meets_it_whatever_his_unit(envoy, upstream):
    envoy.gateway().apply(route("named", 1, 5, upstream("v1"), upstream("v2")))
    for release in ("v1", "v2"):
        path = f"/v2/models/named/versions/{release}/infer"
        assert {ask(envoy.port, path, {"x-unit": unit}).release for unit in UNITS[:20]} == {release}
    answers = {ask(envoy.port, "/v2/models/named/versions/v3/infer", {"x-unit": unit}).release for unit in UNITS[:40]}
    assert answers <= {"v1", "v2"}  # which say that they are not v3


def test_the_gateway_is_the_server_of_the_open_inference_protocol(envoy, upstream):
    envoy.gateway().apply(route("told", 1, 0, upstream("v1")))
    for path in ("/v2", "/v2/health/live", "/v2/health/ready"):
        answer = ask(envoy.port, path, method="GET")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert ask(envoy.port, "/models/told/openapi.json", method="GET").release == "v1"


def test_a_unit_always_meets_the_same_release(envoy, upstream):
    envoy.gateway().apply(route("sticky", 1, 50, upstream("v1"), upstream("v2")))
    first = who_answers(envoy, "sticky")
    assert first == who_answers(envoy, "sticky")
    assert 0.35 < Counter(first.values())["v2"] / len(UNITS) < 0.65


def test_who_was_in_the_canary_stays_in_it_as_it_grows(envoy, upstream):
    v1, v2 = upstream("v1"), upstream("v2")
    inside: set[str] = set()
    for generation, weight in enumerate((5, 25, 50), start=1):
        envoy.gateway().apply(route("monotone", generation, weight, v1, v2))
        now = {unit for unit, release in who_answers(envoy, "monotone").items() if release == "v2"}
        assert inside < now
        inside = now


def test_without_a_unit_the_request_id_decides(envoy, upstream):
    envoy.gateway().apply(route("unitless", 1, 50, upstream("v1"), upstream("v2")))
    releases = {envoy.predict("unitless", x_request_id="same").release for _ in range(20)}
    assert len(releases) == 1
    assert {envoy.predict("unitless").release for _ in range(60)} == {"v1", "v2"}


def test_a_request_id_is_kept_to_the_letter_or_made(envoy, upstream):
    v1 = upstream("v1")
    envoy.gateway().apply(route("ids", 1, 0, v1))
    given = "6F9619FF-8B86-D011-B42D-00C04FC964FF"
    assert envoy.predict("ids", x_request_id=given).headers["x-request-id"] == given
    made = envoy.predict("ids").headers["x-request-id"]
    assert [headers["x-request-id"] for _, headers in v1.seen] == [given, made]


def test_a_mirrored_copy_is_known_by_its_host_and_keeps_its_request_id(envoy, upstream):
    v1, v2 = upstream("v1"), upstream("v2", status=500)
    envoy.gateway().apply(route("shadowed", 1, 0, v1, v2, mirror=Mirror("v2", 100)))
    assert envoy.predict("shadowed", "u", x_request_id="r-1").status == 200
    eventually(lambda: v2.seen)
    assert v2.seen[0][1]["host"] == "shadowed-shadow"
    assert v2.seen[0][1]["x-request-id"] == "r-1"


def test_a_caller_cannot_pass_for_a_mirrored_copy(envoy, upstream):
    v1 = upstream("v1")
    envoy.gateway().apply(route("spoofed", 1, 0, v1))
    envoy.predict("spoofed", "u", host="evil-shadow")
    assert v1.seen[0][1]["host"] == "spoofed"


def test_half_of_the_requests_are_mirrored_when_half_is_asked_for(envoy, upstream):
    v1, v2 = upstream("v1"), upstream("v2")
    envoy.gateway().apply(route("half", 1, 0, v1, v2, mirror=Mirror("v2", 50)))
    who_answers(envoy, "half")
    time.sleep(0.2)
    assert 0.35 < len(v2.seen) / len(UNITS) < 0.65


def test_a_model_without_a_live_release_says_so(envoy):
    envoy.gateway().apply(Route("empty", 1, (), None, {}))
    answer = envoy.predict("empty")
    assert answer.status == 503
    assert answer.headers["content-type"] == "application/json"
    assert "no release of empty is in production" in json.loads(answer.body)["error"]
    assert envoy.gateway().applied("empty") == {"local": 1}


def test_an_unknown_model_is_not_found(envoy):
    answer = envoy.predict("nobody")
    assert (answer.status, json.loads(answer.body)["error"]) == (404, "no such model")
    assert envoy.gateway().applied("nobody") == {"local": -1}


def test_an_older_generation_is_ignored(envoy, upstream):
    v1, v2 = upstream("v1"), upstream("v2")
    envoy.gateway().apply(route("ordered", 5, 100, v1, v2))
    envoy.gateway().apply(route("ordered", 4, 0, v1, v2))
    assert envoy.gateway().applied("ordered") == {"local": 5}
    assert envoy.predict("ordered").release == "v2"


def test_a_release_may_move_within_a_generation(envoy, upstream):
    old = upstream("v1")
    envoy.gateway().apply(route("moved", 2, 0, old))
    new = upstream("v1")
    envoy.gateway().apply(route("moved", 2, 0, new))
    old.stop()
    assert [envoy.predict("moved").status for _ in range(10)] == [200] * 10
    assert len(new.seen) == 10


def test_a_release_that_is_not_ready_gets_no_traffic_and_the_old_route_stays(envoy, upstream):
    v1, v2 = upstream("v1"), upstream("v2", ready=False)
    gateway = envoy.gateway(healthy_within=0.5)
    gateway.apply(route("sick", 1, 0, v1))
    with pytest.raises(NotReady, match=r"sick\.v2 at .* healthy|healthy answer for all of sick\.v2"):
        gateway.apply(route("sick", 2, 100, v1, v2))
    assert envoy.predict("sick").release == "v1"
    assert gateway.applied("sick") == {"local": 1}
    v2.ready = True
    gateway.apply(route("sick", 2, 100, v1, v2))
    assert envoy.predict("sick").release == "v2"


def test_a_server_with_the_open_inference_protocol_and_nothing_else_is_routed_to(envoy, upstream):
    triton = upstream("v1", below="/v2/")
    envoy.gateway(healthy_within=0.5).apply(route("borrowed", 1, 0, triton))
    assert ask(envoy.port, "/v2/models/borrowed/infer").status == 200
    assert [path for path, _ in triton.seen] == ["/v2/models/borrowed/infer"]


def test_a_release_without_an_endpoint_is_refused(envoy, upstream):
    with pytest.raises(NotReady, match=r"homeless\.v2 gets traffic but has no endpoint"):
        envoy.gateway().apply(route("homeless", 1, 100, upstream("v1")))


def test_a_canary_can_be_left_while_the_champion_stumbles(envoy, upstream):
    v1, v2 = upstream("v1"), upstream("v2")
    gateway = envoy.gateway(healthy_within=0.3)
    gateway.apply(route("stumbling", 1, 50, v1, v2))
    v1.ready = False
    v2.stop()
    time.sleep(1.5)
    gateway.apply(route("stumbling", 2, 0, v1))
    assert envoy.predict("stumbling").release == "v1"


def test_a_rollback_to_a_warm_release_is_in_force_within_a_second(envoy, upstream):
    v1, v2 = upstream("v1"), upstream("v2")
    gateway = envoy.gateway()
    gateway.apply(route("quick", 1, 100, v1, v2))
    took = []
    for generation in range(2, 8):
        began = time.perf_counter()
        gateway.apply(route("quick", generation, 100 * (generation % 2), v1, v2))
        took.append(time.perf_counter() - began)
        assert envoy.predict("quick").release == ("v2" if generation % 2 else "v1")
    assert sorted(took)[len(took) // 2] < 1


def test_no_request_fails_while_routes_change(envoy, upstream):
    v1 = upstream("v1")
    gateway = envoy.gateway()
    gateway.apply(route("busy", 1, 0, v1))
    statuses: Counter[int] = Counter()
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            statuses[envoy.predict("busy", f"u{time.perf_counter_ns()}").status] += 1

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for generation in range(2, 22):
            # The challenger's cluster comes and goes, too.
            canary = [upstream("v2")] if generation % 2 else []
            gateway.apply(route("busy", generation, 50 if canary else 0, v1, *canary))
            time.sleep(0.02)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert statuses[200] > 100


def test_old_clusters_are_unloaded(envoy, upstream):
    v1, v2 = upstream("v1"), upstream("v2")
    envoy.gateway().apply(route("tidy", 1, 50, v1, v2))
    envoy.gateway().apply(route("tidy", 2, 0, v1))
    resources = json.loads((envoy.directory / "cds.json").read_text())["resources"]
    assert [cluster["name"] for cluster in resources if cluster["name"].startswith("tidy.")] == ["tidy.v1"]


def test_a_gateway_that_is_late_keeps_the_clusters_of_the_route_that_it_is_on(envoy, upstream, monkeypatch):
    """However many changes it is behind. Late is also one whose route was never written, because whoever published it was killed."""
    v1, v2, v3 = upstream("v1"), upstream("v2"), upstream("v3")

    def loaded() -> list[str]:
        resources = json.loads((envoy.directory / "cds.json").read_text())["resources"]
        return [cluster["name"] for cluster in resources if cluster["name"].startswith("late.")]

    before, after = [], [route("late", 2, 100, v2), Route("late", 3, (Share("v3", 0, 100),), None, {"v3": v3.endpoint})]
    write = EnvoyGateway._write

    def write_clusters_only(self: EnvoyGateway, name: str, text: str) -> None:
        if name != "rds.json":
            write(self, name, text)
            before.append(loaded())

    envoy.gateway().apply(route("late", 1, 0, v1))
    monkeypatch.setattr(EnvoyGateway, "_write", write_clusters_only)
    for change in (after[0], after[0], after[1]):
        with pytest.raises(Unavailable, match=f"does not follow generation {change.generation} of late after 0.3 s"):
            envoy.gateway(applied_within=0.3).apply(change)
    assert all("late.v1" in names for names in before)
    assert envoy.predict("late").release == "v1"
    monkeypatch.undo()
    envoy.gateway().apply(after[1])
    assert envoy.predict("late").release == "v3"
    assert loaded() == ["late.v3"]


def test_the_state_of_an_early_version_is_read(tmp_path: Path):
    """It knew one route that is being left, or none."""
    now, before = route("old", 2, 0), route("old", 1, 0)
    written = {"active": asdict(now), "announced": None}
    (tmp_path / STATE).write_text(json.dumps({"old": written | {"leaving": asdict(before)}, "new": written | {"leaving": None}}))
    assert read_state(tmp_path) == {"old": Entry(active=now, leaving=(before,)), "new": Entry(active=now)}


def test_an_unreadable_state_is_named_and_the_gateway_keeps_its_routes(envoy, upstream, tmp_path: Path):
    (tmp_path / "state.json").write_text("{ half")
    gateway = EnvoyGateway(tmp_path, {"local": envoy.admin_url})
    with pytest.raises(BadData, match=r"state\.json is not the gateway's state"):
        gateway.apply(route("broken", 1, 0, upstream("v1")))
    assert not (tmp_path / "rds.json").exists()


def test_a_gateway_that_is_down_is_named_and_starts_with_the_new_route(upstream, tmp_path: Path):
    server = EnvoyServer(tmp_path)
    with pytest.raises(Unavailable, match="gateway local at .* does not answer"):
        server.gateway().apply(route("later", 7, 0, upstream("v1")))
    server.start()
    try:
        eventually(lambda: server.predict("later").status == 200)
        assert server.gateway().applied("later") == {"local": 7}
    finally:
        server.stop()


def test_one_gateway_down_does_not_keep_the_others_from_changing(envoy, upstream):
    admins = {"local": envoy.admin_url, "other": f"http://127.0.0.1:{free_port()}"}
    with pytest.raises(Unavailable, match="gateway other"):
        EnvoyGateway(envoy.directory, admins).apply(route("partly", 1, 0, upstream("v1")))
    assert envoy.predict("partly").release == "v1"


def counted(envoy: EnvoyServer, model: str, release: str) -> Traffic:
    [sample] = envoy.gateway().sample(model)
    return sample.traffic.get(release, Traffic())


def test_answers_errors_and_latencies_are_counted_by_release(envoy, upstream):
    v1, v2 = upstream("v1", delay=0.06), upstream("v2", status=500)
    envoy.gateway().apply(route("counted", 1, 0, v1, v2))
    for _ in range(4):
        envoy.predict("counted")
    envoy.gateway().apply(route("counted", 2, 100, v1, v2))
    for _ in range(3):
        envoy.predict("counted")
    eventually(lambda: sum(counted(envoy, "counted", "v2").latency) == 3)
    good, bad = counted(envoy, "counted", "v1"), counted(envoy, "counted", "v2")
    assert (good.requests, good.errors, sum(good.latency)) == (4, 0, 4)
    assert (bad.requests, bad.errors) == (3, 3)
    assert sum(good.latency[: LATENCY_BOUNDS_MS.index(50) + 1]) == 0


def test_counts_of_a_model_are_not_mixed_with_those_of_one_with_a_similar_name(envoy, upstream):
    v1 = upstream("v1")
    envoy.gateway().apply(route("alike", 1, 0, v1))
    envoy.gateway().apply(route("alike-too", 1, 0, v1))
    envoy.predict("alike-too")
    eventually(lambda: counted(envoy, "alike-too", "v1").requests == 1)
    assert counted(envoy, "alike", "v1").requests == 0


def test_mirrored_requests_are_counted_as_the_shadows(envoy, upstream):
    v1, v2 = upstream("v1"), upstream("v2", status=500)
    envoy.gateway().apply(route("copied", 1, 0, v1, v2, mirror=Mirror("v2", 100)))
    for _ in range(5):
        envoy.predict("copied")
    eventually(lambda: sum(counted(envoy, "copied", "v2").latency) == 5)
    assert (counted(envoy, "copied", "v2").requests, counted(envoy, "copied", "v2").errors) == (5, 5)
    assert counted(envoy, "copied", "v1").errors == 0


def test_requests_to_a_dead_release_and_those_it_never_answers_count_as_errors_without_latency(envoy, upstream, monkeypatch):
    v1 = upstream("v1")
    monkeypatch.setattr(envoy_config, "REQUEST_TIMEOUT", "0.1s")
    envoy.gateway().apply(route("dead", 1, 0, v1))
    v1.delay = 1.0
    assert envoy.predict("dead").status == 504
    v1.stop()
    assert envoy.predict("dead").status == 503
    time.sleep(1.2)
    assert counted(envoy, "dead", "v1") == Traffic(requests=2, errors=2)


def test_the_epoch_is_stable_and_changes_with_a_restart_that_empties_the_counts(upstream, tmp_path: Path):
    server = EnvoyServer(tmp_path)
    server.start()
    try:
        server.gateway().apply(route("again", 1, 0, upstream("v1")))
        server.predict("again")
        before: list[GatewaySample] = []
        for _ in range(6):
            before += server.gateway().sample("again")
            time.sleep(0.3)
        assert len({sample.epoch for sample in before}) == 1
        assert before[-1].traffic["v1"].requests == 1
        server.stop()
        server.start()
        [after] = server.gateway().sample("again")
        assert after.epoch != before[-1].epoch
        assert after.traffic.get("v1", Traffic()).requests == 0
        assert server.predict("again").release == "v1"
    finally:
        server.stop()


def test_prometheus_sees_model_and_release_as_labels(envoy, upstream):
    envoy.gateway().apply(route("scraped-model", 1, 0, upstream("v1", status=503)))
    envoy.predict("scraped-model", "a")
    wanted = {
        'envoy_cluster_upstream_rq_completed{envoy_cluster_name="scraped-model",release="v1"} 1',
        'envoy_cluster_upstream_rq_xx{envoy_response_code_class="5",envoy_cluster_name="scraped-model",release="v1"} 1',
        'envoy_cluster_membership_healthy{envoy_cluster_name="scraped-model",release="v1"} 1',
        'envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="scraped-model",release="v1",le="500"} 1',
    }

    def shown() -> set[str]:
        # health checks use the stat prefix of the same cluster, and are no requests of callers
        lines = ask(envoy.admin_port, f"/stats/prometheus?filter={quote(envoy_config.SCRAPED)}", method="GET").body.decode().splitlines()
        return {line.strip() for line in lines if "scraped-model" in line}

    eventually(lambda: wanted <= shown(), within=5)
    assert len({line.partition("{")[0] for line in shown()}) <= 8
