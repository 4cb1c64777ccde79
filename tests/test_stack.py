"""The local stack, with S3 and the gateway for real."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mlops_assets import credentials
from mlops_assets.adapters.buckets import BUCKETS
from mlops_assets.adapters.supervisor import PROGRAMS, SOCKET, Program, Supervisor
from mlops_assets.core.errors import MlopsError, NotReady, Unavailable
from mlops_assets.settings import HOST, Settings
from mlops_assets.stack import Stack
from mlops_assets.stack_processes import left_behind
from mlops_assets.stack_services import build
from tests.servers import alive, ask, eventually, free_base_port

SERVICES = ("s3", "envoy")


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    settings = Settings(tmp_path_factory.mktemp("st"), free_base_port())
    yield settings
    Stack(settings, SERVICES).down()


def s3(settings: Settings):
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=settings.s3_url,
        aws_access_key_id=credentials.read(settings.home).access_key,
        aws_secret_access_key=credentials.read(settings.home).secret_key,
        region_name="us-east-1",
    )


def pids(stack: Stack) -> dict[str, int | None]:
    return {service.name: service.pid for service in stack.status()}


def test_up_twice_kill_up_and_down_leaves_nothing_behind(settings):
    stack = Stack(settings, SERVICES)
    stack.up()
    first = pids(stack)
    assert all(service.well for service in stack.status())

    stack.up()
    assert pids(stack) == first

    s3(settings).put_object(Bucket="landing", Key="kept", Body=b"yes")
    supervisord = psutil.Process(first["s3"]).ppid()
    os.kill(supervisord, signal.SIGKILL)
    _wait_until_gone(supervisord)
    assert all(alive(pid) for pid in first.values())
    stack.up()
    assert not any(alive(pid) for pid in first.values())
    assert s3(settings).get_object(Bucket="landing", Key="kept")["Body"].read() == b"yes"

    last = pids(stack)
    stack.down()
    assert not any(alive(pid) for pid in last.values())
    assert left_behind(settings.home) == []
    assert [service.state for service in stack.status()] == ["down", "down"]
    stack.down()


def test_up_makes_the_buckets_and_nothing_in_models_can_be_overwritten_for_good(settings):
    Stack(settings, SERVICES).up()
    client = s3(settings)
    assert {bucket["Name"] for bucket in client.list_buckets()["Buckets"]} == set(BUCKETS)
    assert client.get_bucket_versioning(Bucket="policies")["Status"] == "Enabled"
    assert client.get_object_lock_configuration(Bucket="models")["ObjectLockConfiguration"]["ObjectLockEnabled"] == "Enabled"


@pytest.mark.parametrize(
    ("body", "well"), [(b'{"Topology": {"Max": 72}}', True), (b'{"Topology": {"Max": 0}}', False), (b"no leader", False)]
)
def test_s3_is_well_once_its_master_knows_where_the_objects_are(tmp_path, upstream, body, well):
    settings = Settings(tmp_path, free_base_port())
    asked = build(settings, "mlops_assets.definitions")["s3"].well
    assert not asked()
    upstream("s3", port=settings.s3_port)
    assert not asked()
    upstream("master", port=settings.weed_ports["master"], body=body)
    assert asked() == well


def test_everything_listens_on_loopback_only(settings):
    stack = Stack(settings, SERVICES)
    stack.up()
    tree = psutil.Process(psutil.Process(pids(stack)["s3"]).ppid()).children(recursive=True)
    listening = {c.laddr for process in tree for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening
    assert {address.ip for address in listening} == {HOST}


def test_the_secret_is_readable_by_its_owner_only_and_in_no_configuration_or_log(settings):
    Stack(settings, SERVICES).up()
    secret = credentials.read(settings.home).secret_key
    private = {"credentials.json", "s3.json"}
    for name in private:
        assert (settings.home / name).stat().st_mode & 0o077 == 0
    others = [path for folder in (".", "logs", "envoy", "supervisor") for path in (settings.home / folder).glob("*") if path.is_file()]
    assert [path.name for path in others if path.name not in private and secret in path.read_text(errors="replace")] == []


def test_tokens_of_callers_reach_the_gateway_and_no_process_of_the_stack(settings, monkeypatch):
    monkeypatch.setenv("MLOPS_CLIENT_TOKENS", "of-this-test-and-no-secret")
    stack = Stack(settings, SERVICES)
    stack.up()
    assert ask(settings.gateway_port, "/models/any/predict").status == 401
    for pid in pids(stack).values():
        environment = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{psutil.Process(pid).ppid()}/environ").read_bytes()
        assert b"of-this-test" not in environment
    stack.up()
    monkeypatch.delenv("MLOPS_CLIENT_TOKENS")
    with pytest.raises(MlopsError, match="access to its gateway .* 'mlops down' first"):
        stack.up()


def test_a_stack_started_in_the_background_of_a_script_still_minds_interrupts(settings):
    code = "import sys; from pathlib import Path; from mlops_assets.settings import Settings; from mlops_assets.stack import Stack; "
    code += f"Stack(Settings(Path({str(settings.home)!r}), {settings.base_port}), ('envoy',)).up()"
    subprocess.run(["sh", "-c", '"$0" -c "$1" & wait', sys.executable, code], check=True, cwd=Path(__file__).parent.parent)
    [service] = Stack(settings, ("envoy",)).status()
    assert service.well
    ignored = next(line for line in Path(f"/proc/{service.pid}/status").read_text().splitlines() if line.startswith("SigIgn"))
    assert not int(ignored.split()[1], 16) & (1 << (signal.SIGINT - 1) | 1 << (signal.SIGTERM - 1))


def test_a_port_in_use_is_named_with_its_holder_and_the_way_out(settings):
    wanted = rf"port {settings.gateway_port} \(held by .*pid {os.getpid()}\).*MLOPS_BASE_PORT"
    with socket.create_server((HOST, settings.gateway_port)), pytest.raises(MlopsError, match=wanted):
        Stack(settings, SERVICES).up()
    assert left_behind(settings.home) == []


def test_another_stack_in_the_same_home_is_refused(settings):
    Stack(settings, ("envoy",)).up()
    with pytest.raises(MlopsError, match="'mlops down' first"):
        Stack(Settings(settings.home, settings.base_port + 50), ("envoy",)).up()


@pytest.mark.long
def test_a_service_that_cannot_start_is_named_with_its_log(settings):
    (settings.home / "mlflow").mkdir()
    (settings.home / "mlflow" / "mlflow.db").write_text("not a database at all, and long enough to be seen as such" * 100)
    stack = Stack(settings, ("mlflow",))
    try:
        with pytest.raises(NotReady, match="mlflow ends whenever it starts; its log ends:\n(.|\n)*database"):
            stack.up()
    finally:
        stack.down()


def test_a_stack_that_takes_too_long_to_stop_is_ended_by_the_next_down(settings):
    stack, supervisor = Stack(settings, ("envoy",)), Supervisor(settings.home / SOCKET)
    stack.up()
    deaf = Program("deaf", ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], settings.home / "logs" / "deaf.log", stop_wait=300)
    (settings.home / PROGRAMS / "deaf.conf").write_text(deaf.section())
    supervisor.add("deaf")
    pid = pids(stack)["envoy"]
    eventually(lambda: supervisor.process("deaf")["statename"] == "RUNNING")
    supervisor.call("shutdown")
    with pytest.raises(Unavailable, match="is shutting down: 'mlops down' again"):
        eventually(lambda: supervisor.call("getState") is None)
    assert [service.state for service in stack.status()] == ["down"]
    stack.down()
    assert left_behind(settings.home) == []
    assert not alive(pid)


def test_a_caller_under_the_stack_is_never_ended_with_it(settings):
    marked = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={"MLOPS_STACK": str(settings.home)})
    time.sleep(0.3)
    assert [process.pid for process in left_behind(settings.home)] == [marked.pid]
    Stack(settings, SERVICES).down()
    marked.wait(5)
    code = "import os; from pathlib import Path; from mlops_assets.stack_processes import left_behind; "
    code += f"assert left_behind(Path({str(settings.home)!r})) == []"
    marked_environment = {**os.environ, "MLOPS_STACK": str(settings.home)}
    subprocess.run(
        ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, code], check=True, env=marked_environment, cwd=Path(__file__).parent.parent
    )


def test_the_gateway_of_the_stack_answers(settings):
    Stack(settings, ("envoy",)).up()
    assert ask(settings.gateway_port, "/models/any/predict").status == 404


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while alive(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)
