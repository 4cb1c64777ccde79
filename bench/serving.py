"""One release beside a bare ASGI application and beside other servers, all with the same model on one core.

``python -m bench.serving [--peers bentoml,mlflow,mlserver,kserve] [--seconds 3] [--rounds 3]`` writes ``bench/results/serving.json`` and
exits with 1 if a limit is broken. Needs ``wrk`` (``deploy/bench_tools.sh``) and two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort

from bench.figures import describe_machine
from bench.serving_clients import agreement
from bench.serving_load import CLIENT_CORE, HOST, Point, Running, free_base_port, free_port, running, write_script
from bench.serving_peers import BIN, PARTS, PEERS, Server, bare, ours
from mlops_assets import credentials
from mlops_assets.adapters import envoy_config
from mlops_assets.adapters.envoy import prepare
from mlops_assets.adapters.onnx_export import export
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.routing import Route, Share
from mlops_assets.core.signature import Signature
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack
from mlops_assets.stack_services import S3

RESULT = Path(__file__).parent / "results" / "serving.json"
CONNECTIONS = (1, 32, 256)
TREES, WIDTH = 200, 20
OF_BARE, TIMES_PEER, TIMES_PEER_BEHIND, P99_OF_BARE, HOP_MS, START_S = 0.6, 6.0, 5.0, 3.0, 0.15, 2.0
SYNCED_OF_BARE = 0.5
OURS = "bench"
"""The model's name, under which the gateway has its routes."""


@dataclass
class Measured:
    """A server's memory, idle and after the load, and its points; ``skipped`` says why there are none.

    ``ours_times`` is how many requests/s ours answered for each of a peer's, by connections, loaded in turn with it.
    """

    name: str
    idle_mb: float = 0.0
    loaded_mb: float = 0.0
    points: dict[int, Point] = field(default_factory=dict)
    ours_times: dict[int, float] = field(default_factory=dict)
    skipped: str = ""


@dataclass(frozen=True)
class Figure:
    """A measured value and what it must be."""

    name: str
    value: float
    limit: float
    at_most: bool = False

    @property
    def is_broken(self) -> bool:
        return self.value > self.limit if self.at_most else self.value < self.limit


def make_model() -> bytes:
    """Boosted trees, as this project exports them."""
    from lightgbm import LGBMClassifier

    chance = np.random.default_rng(7)
    features = chance.normal(size=(20_000, WIDTH)).astype(np.float32)
    labels = features[:, 0] + features[:, 1] * features[:, 2] + chance.normal(size=len(features)) > 0
    fitted = LGBMClassifier(n_estimators=TREES, num_leaves=31, n_jobs=1, verbose=-1).fit(features, labels)
    inputs = tuple(Feature(f"f{place:02}") for place in range(WIDTH))
    return export(fitted, Signature("bench", inputs, "unit", 0.5, "t" * 8))


def start_store(home: Path, stack: ExitStack) -> Mapping[str, str]:
    """A real object store, to which the prediction log is shipped; what a release is told of it."""
    settings = Settings(home, free_base_port())
    store = Stack(settings, services=(S3,))
    store.up()
    stack.callback(store.down)
    return {"MLOPS_S3_URL": settings.s3_url, **credentials.read(home).environment()}


def measure(servers: Sequence[Server], work: Path, seconds: int, rounds: int) -> list[Measured]:
    """Each server's points, the median by requests/s of ``rounds``. All run at once and are loaded in turn, so that a busy machine
    slows them all."""
    with ExitStack() as stack:
        started = []
        for server in servers:
            log = work / f"{server.name.replace(' ', '-')}.log"
            script = write_script(work, server.body, server.name)
            run = stack.enter_context(running(server.command, server.ready, server.environment, server.folder, log))
            run.load(script, server.path, 4, 1)
            started.append((server, script, run, Measured(server.name, run.memory_mb())))
        for connections in CONNECTIONS:
            found: dict[str, list[Point]] = {server.name: [] for server in servers}
            for _ in range(rounds):
                for server, script, run, _ in started:
                    found[server.name].append(run.load(script, server.path, connections, seconds))
            for server, _, _, measured in started:
                measured.points[connections] = _median(found[server.name])
        for _, _, run, measured in started:
            measured.loaded_mb = run.memory_mb()
        return [measured for *_, measured in started]


def measure_peers(names: Sequence[str], ours: Server, model: Path, row: list[float], work: Path, seconds: int) -> list[Measured]:
    """The peers, one after the other, each in turn with ours."""
    found = []
    for name in names:
        try:
            peer, beside = measure([PEERS[name](model, row, work), ours], work, seconds, 1)
            peer.ours_times = {
                connections: beside.points[connections].requests_per_second / point.requests_per_second
                for connections, point in peer.points.items()
            }
            found.append(peer)
        except Exception as error:  # whatever keeps a peer from running is told, and the others are measured
            found.append(Measured(name, skipped=f"{type(error).__name__}: {str(error)[-300:]}"))
    return found


@contextmanager
def gateway(work: Path, behind: Mapping[str, tuple[Server, Running]]) -> Iterator[Running]:
    """An Envoy before servers, each under its name as a model. It is configured as for releases, and runs on the client's core."""
    directory, port, admin = work / f"envoy-{'-'.join(behind)}", free_port(), free_port()
    endpoints = {name: f"{HOST}:{run.port}" for name, (_, run) in behind.items()}
    clusters = json.loads(envoy_config.clusters([(name, "v1", endpoint) for name, endpoint in endpoints.items()]))
    routed = [Route(name, 1, (Share("v1", 0, 100),), None, {"v1": endpoint}) for name, endpoint in endpoints.items()]
    routes = json.loads(envoy_config.routes(routed))
    for cluster in clusters["resources"]:  # peers have paths of their own
        server = behind[cluster["name"].partition(".")[0]][0]
        cluster["health_checks"] = [check | {"http_health_check": {"path": server.ready}} for check in cluster["health_checks"]]
    for route in routes["resources"][0]["virtual_hosts"][0]["routes"]:
        name = route["match"].get("path", "").removeprefix("/models/").removesuffix("/predict")
        if name in behind:
            route["route"]["prefix_rewrite"] = behind[name][0].path
    bootstrap = prepare(directory, port, admin)
    (directory / "cds.json").write_text(json.dumps(clusters))
    (directory / "rds.json").write_text(json.dumps(routes))
    command = [str(BIN / "envoy"), "-c", str(bootstrap), "--disable-hot-restart", "--concurrency", "1", "-l", "error"]
    ready = f"/v2/models/{OURS}/ready"  # answered by the release, so the route is there
    with running(command, ready, {}, directory, directory / "envoy.log", CLIENT_CORE, port) as envoy:
        yield envoy


def measure_hop(server: Server, work: Path, seconds: int, rounds: int) -> list[Measured]:
    """One release by one connection, directly and through Envoy, in turn."""
    script = write_script(work, server.body, "hop")
    with (
        running(server.command, server.ready, server.environment, server.folder, work / "hop.log") as release,
        gateway(work, {OURS: (server, release)}) as envoy,
    ):
        direct, through = [], []
        for _ in range(rounds):
            direct.append(release.load(script, server.path, 1, seconds))
            through.append(envoy.load(script, f"/models/{OURS}/predict", 1, seconds))
    found = Measured("ours, one connection"), Measured("ours behind Envoy")
    found[0].points[1], found[1].points[1] = _median(direct), _median(through)
    return [*found]


def measure_behind(
    names: Sequence[str], server: Server, model: Path, row: list[float], work: Path, seconds: int, rounds: int
) -> list[Measured]:
    """Peers behind one Envoy, each in turn with ours behind the same. The CPU is the server's, without Envoy's."""
    found = []
    for name in names:
        folder = work / f"behind-{name}"
        folder.mkdir()
        peer = PEERS[name](model, row, folder)
        with ExitStack() as stack:
            started = {
                key: (each, stack.enter_context(running(each.command, each.ready, each.environment, each.folder, folder / f"{key}.log")))
                for key, each in ((OURS, server), ("peer", peer))
            }
            envoy = stack.enter_context(gateway(folder, started))
            points: dict[str, list[Point]] = {key: [] for key in started}
            scripts = {key: write_script(folder, each.body, key) for key, (each, _) in started.items()}
            for _ in range(rounds):
                for key, (_, run) in started.items():
                    cpu = run.cpu_seconds()
                    point = envoy.load(scripts[key], f"/models/{key}/predict", 32, seconds)
                    spent = 1e6 * (run.cpu_seconds() - cpu) / (point.requests_per_second * seconds)
                    points[key].append(replace(point, cpu_us=spent))
        ours_found, peer_found = _median(points[OURS]), _median(points["peer"])
        times = {32: ours_found.requests_per_second / peer_found.requests_per_second}
        found.append(Measured(f"{peer.name} behind Envoy", points={32: peer_found}, ours_times=times))
        found.append(Measured("ours behind the same", points={32: ours_found}))
    return found


def measure_clients(names: Sequence[str], server: Server, model: bytes, work: Path) -> dict[str, float]:
    """The share of answers by which the peers' own clients get the model's scores from ours."""
    clients = [client for client, peer in (("KServe's client", "kserve"), ("MLServer's client", "mlserver")) if peer in names]
    rows = np.random.default_rng(1).normal(size=(50, WIDTH)).astype(np.float32)
    expected = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(["score"], {"features": rows})[0].ravel()
    with running(server.command, server.ready, server.environment, server.folder, work / "clients.log") as run:
        return {client: agreement(client, run.port, rows, expected, work) for client in clients}


def best(names: Sequence[str], peers: Sequence[Measured], count: int = 2) -> list[str]:
    """The peers that come nearest to ours, by their names on the command line."""
    ran = sorted((peer.ours_times[32], name) for name, peer in zip(names, peers, strict=True) if not peer.skipped)
    return [name for _, name in ran[:count]]


def measure_start(server: Server, work: Path, rounds: int) -> list[float]:
    """Seconds from the start of a release's process until it is ready, its model on the disk."""
    found = []
    for number in range(rounds):
        began = time.perf_counter()
        with running(server.command, server.ready, server.environment, server.folder, work / f"start-{number}.log"):
            found.append(time.perf_counter() - began)
    return found


def judge(
    ours_and_parts: Sequence[Measured],
    peers: Sequence[Measured],
    hop: Sequence[Measured],
    behind: Sequence[Measured],
    starts: Sequence[float],
    clients: Mapping[str, float],
) -> list[Figure]:
    """What the issue asks for, as far as it was measured."""
    least, whole, synced = (each.points[32] for each in ours_and_parts[:3])
    figures = [
        Figure("of bare ASGI's requests/s", whole.requests_per_second / least.requests_per_second, OF_BARE),
        Figure("of bare ASGI's, with fdatasync", synced.requests_per_second / least.requests_per_second, SYNCED_OF_BARE),
        Figure("times bare ASGI's p99", whole.p99_ms / least.p99_ms, P99_OF_BARE, at_most=True),
        Figure("ms for a hop through Envoy", hop[1].points[1].p50_ms - hop[0].points[1].p50_ms, HOP_MS, at_most=True),
        Figure("cold start s", median(starts), START_S, at_most=True),
    ]
    if ran := [peer.ours_times[32] for peer in peers if not peer.skipped]:
        figures.append(Figure("times the best peer's requests/s", min(ran), TIMES_PEER))
    if ran := [each.ours_times[32] for each in behind if each.ours_times]:
        figures.append(Figure("times the best peer's behind Envoy", min(ran), TIMES_PEER_BEHIND))
        pairs = zip(behind[::2], behind[1::2], strict=True)
        less = min(peer.points[32].cpu_us / whole.points[32].cpu_us for peer, whole in pairs)
        figures.append(Figure("the same, for each CPU second", less, TIMES_PEER_BEHIND))
    figures += [Figure(f"{client}, right scores", share, 1.0) for client, share in clients.items()]
    return figures


def table(measured: Sequence[Measured]) -> str:
    heads = f"{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU µs':>8}{'failed':>8}{'idle MB':>9}{'loaded MB':>11}{'ours':>8}"
    lines = [f"{'server':<24}{'conns':>6}{heads}"]
    for each in measured:
        if each.skipped:
            lines.append(f"{each.name:<24} skipped: {each.skipped}")
        for connections, point in each.points.items():
            memory = f"{each.idle_mb:>9.0f}{each.loaded_mb:>11.0f}" if each.idle_mb else ""
            times = f"{f'× {each.ours_times[connections]:.1f}':>8}" if each.ours_times else ""
            lines.append(
                f"{each.name:<24}{connections:>6}{point.requests_per_second:>9.0f}{point.p50_ms:>9.2f}{point.p99_ms:>9.2f}"
                f"{point.cpu_us:>8.0f}{point.failed:>8}{memory}{times}"
            )
    return "\n".join(lines)


def parts_table(measured: Sequence[Measured]) -> str:
    """What each part of ours costs: the CPU of a request with it, less that without it."""
    whole, _synced, *without = measured[1:]
    lines = [f"{'part':<24}" + "".join(f"{f'µs at {connections}':>12}" for connections in CONNECTIONS)]
    for each in without:
        spent = [whole.points[connections].cpu_us - each.points[connections].cpu_us for connections in CONNECTIONS]
        lines.append(f"{each.name.removeprefix('ours without '):<24}" + "".join(f"{value:>12.1f}" for value in spent))
    return "\n".join(lines)


def figures_table(figures: Sequence[Figure]) -> str:
    lines = [f"{'figure':<36}{'value':>8}{'limit':>8}{'ratio':>7}"]
    for each in figures:
        sign = "≤" if each.at_most else "≥"
        told = "  BROKEN" if each.is_broken else ""
        lines.append(
            f"{each.name:<36}{each.value:>8.2f}{f'{sign} {each.limit:g}':>8}{(each.value / each.limit if each.limit else 0):>7.2f}{told}"
        )
    return "\n".join(lines)


def _median(points: Sequence[Point]) -> Point:
    return sorted(points, key=lambda point: point.requests_per_second)[len(points) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default=",".join(PEERS), help="which peers, with commas; none if empty")
    parser.add_argument("--seconds", type=int, default=3, help="for each point")
    parser.add_argument("--rounds", type=int, default=3, help="for each point of ours and of bare ASGI")
    told = parser.parse_args()
    names = [name for name in told.peers.split(",") if name]
    if unknown := [name for name in names if name not in PEERS]:
        parser.error(f"--peers: {', '.join(unknown)} is not known: choose from {', '.join(PEERS)}")
    before, model = describe_machine(), make_model()
    row = [round(float(value), 4) for value in np.random.default_rng(0).normal(size=WIDTH)]
    with tempfile.TemporaryDirectory(prefix="bs") as folder, ExitStack() as stack:
        work, digest = Path(folder), sha256(model).hexdigest()
        file = work / "home" / "models" / f"{digest}.onnx"  # where a release keeps it, so that all can read it
        file.parent.mkdir(parents=True)
        file.write_bytes(model)
        environment = {"MLOPS_MODEL": "bench", "MLOPS_RELEASE": "v1", "MLOPS_MODEL_DIGEST": digest, "MLOPS_HOME": str(work / "home")}
        environment |= start_store(work / "s3", stack)
        own = [bare(file, row), *(ours(part, environment, row) for part in ("nothing", *PARTS))]
        measured = measure(own, work, told.seconds, told.rounds)
        peers = measure_peers(names, own[1], file, row, work, told.seconds)
        hop = measure_hop(own[1], work, told.seconds, told.rounds)
        behind = measure_behind(best(names, peers), own[1], file, row, work, told.seconds, told.rounds)
        starts = measure_start(own[1], work, told.rounds)
        clients = measure_clients(names, own[1], model, work)
    figures = judge(measured, peers, hop, behind, starts, clients)
    result = {
        "model": f"{TREES} trees, {WIDTH} features; one row of JSON a request; the server on one core, wrk on another",
        "seconds": told.seconds,
        "rounds": told.rounds,
        "measured_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "machine": before | {"load_average_after": [round(value, 1) for value in os.getloadavg()]},
        "servers": [asdict(each) for each in (*measured, *peers, *hop, *behind)],
        "cold_starts_s": [round(value, 2) for value in starts],
        "figures": [asdict(each) | {"ratio": each.value / each.limit} for each in figures],
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(", ".join(f"{name} {value}" for name, value in result["machine"].items()))  # type: ignore[attr-defined]
    print(table([*measured, *peers, *hop, *behind]), parts_table(measured), figures_table(figures), sep="\n\n")
    if any(figure.is_broken for figure in figures):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
