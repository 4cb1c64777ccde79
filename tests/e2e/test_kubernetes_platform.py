"""The whole platform on a real cluster: real flights land, a pod trains on them, releases come and go, what is around them is killed.

``make e2e-kubernetes``, with ``PLATFORM_IMAGE`` and ``POSTGRES_IMAGE``. The story is the demo's, driven by the sensors of a daemon in a
pod.
``KUBELET_RESTART`` is a command that restarts the node's kubelet; without it that fault is left out.
"""

import http.client
import io
import json
import os
import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from rich.table import Table

from mlops_assets.adapters.memory import MemoryRegistry
from mlops_assets.adapters.prediction_log import TOMBSTONE, prefix
from mlops_assets.core.errors import Unavailable
from mlops_assets.demo import play as demo
from mlops_assets.demo.traffic import Traffic
from mlops_assets.ports import ObjectStore, Platform
from mlops_assets.settings import Settings
from tests.cluster import NAMESPACE, Cluster, delete_all, installed, kubectl, require_cluster, service_address
from tests.e2e.small_flights import small_spec
from tests.servers import eventually, free_base_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

HERE = Path(__file__).parent
TRAINING = "flight_delay_train_and_export"
DAGSTER = ("mlops-assets", "dagster-webserver", "dagster-daemon")
PACE = 1_200
"""A day of the canary plan passes in 72 s: each step is a run in a pod of its own, which starts for some twenty seconds."""

RATE = 50.0
PATIENCE = 1500.0
SETTINGS = {"MLOPS_PACE": str(PACE), "MLOPS_SENSOR_SECONDS": "5", "MLOPS_REPLAY": "1", "MLOPS_LOG_ROTATE_SECONDS": "2"}


@dataclass
class Told:
    """The demo's story on this cluster, and what was measured of it."""

    cluster: Cluster
    story: demo.Story
    figures: list[tuple[str, str]] = field(default_factory=list)

    def tell(self, what: str, figure: str) -> None:
        self.figures.append((what, figure))
        print(f"{what}: {figure}", flush=True)

    @contextmanager
    def cost(self, what: str) -> Iterator[None]:
        """Tell how many requests failed meanwhile."""
        traffic = self.story.traffic
        before, failed = sum(traffic.answers.values()), traffic.failed
        yield
        self.tell(what, f"{traffic.failed - failed} of {sum(traffic.answers.values()) - before} requests failed")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    require_cluster("PLATFORM_IMAGE", "POSTGRES_IMAGE")
    home = tmp_path_factory.mktemp("cluster")
    password = secrets.token_hex(16)
    began = time.monotonic()
    try:
        start_postgres(password)
        address = f"postgresql+psycopg2://mlops:{password}@postgres.{NAMESPACE}.svc.cluster.local:5432"
        databases = {"MLOPS_DAGSTER_DATABASE_URL": f"{address}/dagster", "MLOPS_MLFLOW_DATABASE_URL": f"{address}/mlflow"}
        more = " ".join(f"{name}={value}" for name, value in SETTINGS.items())
        cluster = installed({**os.environ, **databases, "SETTINGS": more})
        load_small_flights()
        with forwarded("dagster-dagster-webserver", 8080) as port:
            traffic = Traffic(demo.MODEL, 80, RATE, threads=8, host=service_address("mlops-gateway"))
            story = demo.Story(Settings(home, port), platform_of(cluster), small_spec(), Console(width=160), traffic, PATIENCE)
            told = Told(cluster, story)
            told.tell("installed: Dagster, MLflow, gateways and stores ready", f"{time.monotonic() - began:.0f} s")
            yield told
            traffic.stop()
        table = Table("on this cluster", "figure")
        for row in told.figures:
            table.add_row(*row)
        Console(width=160).print(table)
    finally:
        delete_all()


def start_postgres(password: str) -> None:
    subprocess.run(["kubectl", "create", "namespace", NAMESPACE], check=True)
    manifest = HERE.joinpath("postgres.yaml").read_text().replace("image: postgres", f"image: {os.environ['POSTGRES_IMAGE']}")
    for given in (_secret("postgres", password=password), manifest):
        subprocess.run(["kubectl", "-n", NAMESPACE, "apply", "-f", "-"], input=given, text=True, check=True)
    kubectl("rollout", "status", "deployment/postgres", "--timeout=120s")


def _secret(name: str, **values: str) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values})


def load_small_flights() -> None:
    """Have the code server, and its runs, load ``small_flights.py``."""
    kubectl("create", "configmap", "small-flights", f"--from-file={HERE / 'small_flights.py'}")
    volumes = [{"name": "small-flights", "configMap": {"name": "small-flights"}}]
    mounts = [{"name": "small-flights", "mountPath": "/opt/small"}]
    path = {"name": "PYTHONPATH", "value": "/app:/opt/small"}
    runs = {"container_config": {"volume_mounts": mounts, "env": [path]}, "pod_spec_config": {"volumes": volumes}}
    told = {"name": "DAGSTER_CONTAINER_CONTEXT", "value": json.dumps({"k8s": {"run_k8s_config": runs}})}
    container = {"name": "dagster", "args": ["--module-name", "small_flights"], "env": [path, told], "volumeMounts": mounts}
    patch = {"spec": {"template": {"spec": {"containers": [container], "volumes": volumes}}}}
    kubectl("patch", "deployment", "mlops-assets", "--patch", json.dumps(patch))
    kubectl("rollout", "status", "deployment/mlops-assets", "--timeout=180s")


@contextmanager
def forwarded(service: str, port: int) -> Iterator[int]:
    """A port of this machine that leads to a Service, as an engineer makes one: nothing but the proxy may reach Dagster otherwise."""
    here = free_base_port()
    command = f"while :; do kubectl -n {NAMESPACE} port-forward service/{service} {here}:{port}; sleep 1; done"
    process = subprocess.Popen(["bash", "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield here
    finally:
        os.killpg(process.pid, 15)
        process.wait(10)


def platform_of(cluster: Cluster) -> Platform:
    """As this machine reaches it, without MLflow, Feast and the prediction log, which no one but pods has to ask here."""
    return Platform(
        clock=lambda: datetime.now(UTC),
        objects=cluster.objects,
        policies=cluster.policies,
        registry=MemoryRegistry(),
        features=None,  # type: ignore[arg-type]
        predictions=None,  # type: ignore[arg-type]
        deployments=cluster.deployments,
        gateway=cluster.gateway,
        pace=PACE,
    )


def jobs() -> list[Mapping[str, Any]]:
    return json.loads(kubectl("get", "jobs", "-l", "dagster/run-id", "-o", "json"))["items"]


def steps_in_own_pods() -> dict[str, int]:
    """How many pods each step was given of its own, by the step."""
    found: dict[str, int] = {}
    for job in jobs():
        if job["metadata"]["name"].startswith("dagster-step-"):
            step = job["metadata"]["labels"]["dagster/op"]
            found[step] = found.get(step, 0) + 1
    return found


def well(story: demo.Story) -> list[tuple[str, str]]:
    return [(step.name, step.reason) for step in story.steps if not step.ok]


def is_champion(story: demo.Story, release: str) -> bool:
    """Whether the policy can be read, and says so."""
    try:
        return story.policy().champion == release
    except Unavailable:
        return False


def describe_changes(story: demo.Story) -> list[str]:
    return [f"{change.at:%H:%M:%S} {change.action} {change.release}: {change.author.why}" for change in story.policy().log]


def mlops(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As a person on call does it, who may enter the operator's pod and no other."""
    command = ["kubectl", "-n", NAMESPACE, "exec", "mlops-operator-0", "--", "env", "USER=ada", "mlops", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_flights_land_and_a_pod_of_its_own_trains_on_them(told: Told) -> None:
    demo.first_release(told.story)
    assert well(told.story) == []
    told.tell("v1 in production, from the landing of its data", f"{told.story.steps[-1].seconds:.0f} s")
    assert steps_in_own_pods().get(TRAINING, 0) >= 1
    told.tell("runs in pods until then", f"{sum(job['metadata']['name'].startswith('dagster-run-') for job in jobs())}")


def test_the_doctor_in_the_operators_pod_has_nothing_to_mend(told: Told) -> None:
    done = mlops("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a dry run was" in done.stdout


def test_a_release_goes_through_its_canary_while_postgres_is_killed_in_the_middle_of_its_training(told: Told) -> None:
    with told.cost("postgres killed in a training, then a canary in four steps and promotion"), ThreadPoolExecutor(1) as beside:
        killed = beside.submit(kill_postgres_in_a_training, steps_in_own_pods()[TRAINING])
        demo.second_release(told.story)
    assert killed.result(), "no second training was seen, so postgres was not killed in it"
    assert well(told.story) == []
    told.tell("v2 in production, from the landing of its data", f"{told.story.steps[-1].seconds:.0f} s")
    assert told.story.traffic.failed == 0


def kill_postgres_in_a_training(trained: int, within: float = PATIENCE) -> bool:
    """Wait for a training that is not among the first ``trained``, let it begin, and end the database as a crash does."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        pods = json.loads(kubectl("get", "pods", "-l", f"dagster/op={TRAINING}", "-o", "json"))["items"]
        if len(pods) > trained and any(pod["status"]["phase"] == "Running" for pod in pods):
            time.sleep(5)
            kubectl("exec", "deployment/postgres", "--", "sh", "-c", "kill -QUIT 1")
            return True
        time.sleep(0.5)
    return False


def test_a_release_that_is_wrong_live_is_rolled_back_by_the_night_shift(told: Told) -> None:
    with told.cost("v3 in its canary, aborted by its guardrail"):
        demo.broken_release(told.story)
    assert well(told.story) == []
    assert told.story.policy().champion == "v2", describe_changes(told.story)
    assert told.story.traffic.failed == 0


def test_a_rollback_by_hand_needs_no_dagster(told: Told) -> None:
    for name in DAGSTER:
        kubectl("scale", f"deployment/{name}", "--replicas=0")
    eventually(
        lambda: not kubectl("get", "pods", "-l", "component in (user-deployments, dagster-webserver, dagster-daemon)", "-o", "name"), 90
    )
    with told.cost("rollback by hand, Dagster stopped"):
        began = time.monotonic()
        done = mlops("rollback", demo.MODEL, "--reason", "a test on a cluster")
        assert done.returncode == 0, done.stderr
        told.tell("mlops rollback in the operator's pod, the whole command", f"{time.monotonic() - began:.2f} s")
        time.sleep(3)
        told.tell("from its call to the last answer of v2", f"{told.story.traffic.last_answer['v2'] - began:.2f} s")
    assert told.story.policy().champion == "v1"
    assert told.story.traffic.last_answer["v1"] > told.story.traffic.last_answer["v2"]
    assert told.story.traffic.failed == 0
    for name in DAGSTER:
        kubectl("scale", f"deployment/{name}", "--replicas=1")
    for name in DAGSTER:
        kubectl("rollout", "status", f"deployment/{name}", "--timeout=240s")
    eventually(lambda: mlops("status").returncode == 0, 240)


def test_the_object_store_is_away_for_a_minute_and_neither_a_request_nor_an_answer_is_lost(told: Told) -> None:
    answered = told.story.traffic.by_release()["v1"]
    with told.cost("the object store away for a minute"):
        service = "service/mlops-s3"
        kubectl("patch", service, "--patch", '{"spec": {"selector": {"app.kubernetes.io/name": "nothing"}}}')
        kubectl("exec", "statefulset/mlops-s3", "--", "sh", "-c", "kill -TERM 1")  # connections that are kept would go on
        asked = ask_by_name(told.story, seconds=60)
        kubectl("patch", service, "--patch", '{"spec": {"selector": {"app.kubernetes.io/name": "mlops-s3"}}}')
        eventually(lambda: is_champion(told.story, "v1"), 60)
    assert told.story.traffic.failed == 0
    assert told.story.traffic.by_release()["v1"] > answered + 60 * RATE / 2
    objects = told.cluster.objects
    eventually(lambda: asked <= logged(objects).keys(), 120)
    rows = logged(objects)
    told.tell("of them asked by name, and in the prediction log once", f"{sum(rows[name] == 1 for name in asked)} of {len(asked)}")
    assert {rows[name] for name in asked} == {1}
    eventually(lambda: mlops("status").returncode == 0, 240)


def ask_by_name(story: demo.Story, seconds: float, rate: float = 5.0) -> set[str]:
    """Ask beside the traffic, each time by an id of its own; the ids, all of which were answered."""
    requests = story.caller.requests(date(2013, 3, 1), date(2013, 3, 8))
    host = service_address("mlops-gateway")
    names = {f"away-{n}": requests[n % len(requests)] for n in range(int(seconds * rate))}
    for name, body in names.items():
        began = time.monotonic()
        headers = {"x-request-id": name, "x-unit": body["unit"], "content-type": "application/json"}
        connection = http.client.HTTPConnection(host, 80, timeout=10)
        connection.request("POST", f"/models/{demo.MODEL}/predict", json.dumps(body), headers)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["request_id"]) == (200, name)
        connection.close()
        time.sleep(max(0.0, 1 / rate - (time.monotonic() - began)))
    return set(names)


def logged(objects: ObjectStore) -> Counter[str]:
    """How many rows of live answers all files of the log have, by the request's id: no reader has left out what is there twice."""
    found: Counter[str] = Counter()
    for entry in objects.list(prefix(demo.MODEL)):
        if entry.size > len(TOMBSTONE):
            table = pq.read_table(io.BytesIO(objects.get(entry.key)), columns=["request_id", "role"])
            found.update(table.filter(pc.equal(table["role"], "live"))["request_id"].to_pylist())
    return found


def test_the_kubelet_is_restarted(told: Told) -> None:
    if "KUBELET_RESTART" not in os.environ:
        pytest.skip("KUBELET_RESTART is not set: a command that restarts the kubelet of the cluster's node")
    before, failed = sum(told.story.traffic.answers.values()), told.story.traffic.failed
    with told.cost("the kubelet restarted"):
        subprocess.run(os.environ["KUBELET_RESTART"], shell=True, check=True)
        time.sleep(20)
        kubectl("wait", "--for=condition=Ready", "pods", "-l", "mlops-assets/model=flight-delay", "--timeout=120s")
    asked = sum(told.story.traffic.answers.values()) - before
    assert told.story.traffic.failed - failed <= 0.1 * asked
    eventually(lambda: mlops("status").returncode == 0, 240)


def test_what_each_part_takes(told: Told) -> None:
    parts: dict[str, list[float]] = {}
    for pod in json.loads(kubectl("get", "pods", "--field-selector=status.phase=Running", "-o", "json"))["items"]:
        name = pod["metadata"]["name"]
        if not name.startswith(("dagster-run-", "dagster-step-")):
            for container in pod["spec"]["containers"]:
                part = name.rsplit("-", 2)[0] if container["name"] == "dagster" else container["name"]
                parts.setdefault(part, []).append(megabytes(name, container["name"]))
    for name, sizes in sorted(parts.items()):
        told.tell(f"memory of {name}", f"{max(sizes):.0f} MB" + (f" each of {len(sizes)}" if len(sizes) > 1 else ""))
    assert {"release", "envoy", "sidecar", "mlflow", *DAGSTER} <= parts.keys()
    assert min(size for sizes in parts.values() for size in sizes) > 0


def megabytes(pod: str, container: str) -> float:
    """What the processes of a container hold, pages that several of them share counted once."""
    told = kubectl("exec", pod, "-c", container, "--", "sh", "-c", "cat /proc/[0-9]*/smaps_rollup", check=False)  # one is gone by then: cat
    return sum(int(line.split()[1]) for line in told.splitlines() if line.startswith("Pss:")) / 1000
