import sys
from pathlib import Path

import pytest
import yaml

from mlops_assets.adapters.local import local_platform
from mlops_assets.core.errors import MlopsError
from mlops_assets.settings import Settings, without_password, without_secrets


def test_the_defaults_are_the_present_folder_and_port_4000(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLOPS_HOME", "MLOPS_BASE_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert Settings.from_environment() == Settings(Path.cwd() / ".mlops", 4000)


def test_two_stacks_can_live_side_by_side(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    monkeypatch.setenv("MLOPS_BASE_PORT", "14000")
    assert Settings.from_environment().gateway_url == "http://127.0.0.1:14003"


@pytest.mark.parametrize("port", ["", "http", "-1", "80", "60000", "14000.5", "１４０００x"])
def test_a_base_port_that_cannot_be_is_refused_with_one_that_can(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("MLOPS_BASE_PORT", port)
    with pytest.raises(MlopsError, match="MLOPS_BASE_PORT: got .*, expected a port from 1024 to 54999, e.g. 14000"):
        Settings.from_environment()


def test_releases_run_on_this_machine_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    monkeypatch.delenv("MLOPS_TARGET", raising=False)
    assert settings.target == "processes"
    monkeypatch.setenv("MLOPS_TARGET", "k8s")
    with pytest.raises(MlopsError, match="MLOPS_TARGET: got 'k8s', expected processes or kubernetes or ray"):
        _ = settings.target


def test_on_ray_the_platform_has_its_deployments_and_the_gateway_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"MLOPS_TARGET": "ray", "MLOPS_S3_URL": "http://s3:8333"}.items():
        monkeypatch.setenv(name, value)
    from mlops_assets.adapters.ray_serve import RayServeDeployments

    platform = local_platform(Settings(tmp_path))
    assert not platform.gateway.follows_policies
    assert isinstance(platform.deployments.running.__self__, RayServeDeployments)


def test_ray_that_is_not_installed_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"MLOPS_TARGET": "ray", "MLOPS_S3_URL": "http://s3:8333"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "mlops_assets.adapters.ray_serve", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MlopsError, match=r"pip install 'mlops-assets\[ray\]'"):
        local_platform(Settings(tmp_path)).deployments.running("any")


def test_a_gateway_that_speaks_tls_has_an_address_that_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLOPS_GATEWAY_TLS", raising=False)
    settings = Settings(tmp_path)
    assert settings.gateway_url == f"http://127.0.0.1:{settings.gateway_port}"
    monkeypatch.setenv("MLOPS_GATEWAY_TLS", str(tmp_path))
    assert settings.gateway_url == f"https://127.0.0.1:{settings.gateway_port}"


def test_on_a_cluster_the_platform_has_its_deployments_and_gateways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = {"MLOPS_TARGET": "kubernetes", "MLOPS_SERVING_IMAGE": "serving:1", "MLOPS_S3_URL": "http://s3:8333"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLOPS_GATEWAYS", "10.0.0.1:9902, 10.0.0.2:9902,")
    settings = Settings(tmp_path)
    assert settings.gateways == ("10.0.0.1:9902", "10.0.0.2:9902")
    platform = local_platform(settings)
    assert type(platform.deployments).__name__ == "KubernetesDeployments"
    assert platform.gateway.follows_policies


def test_links_lead_to_dagster_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLOPS_TARGET", "MLOPS_DAGSTER_URL", "MLOPS_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings(tmp_path)
    assert settings.dagster_url == "http://127.0.0.1:4000"
    monkeypatch.setenv("MLOPS_TARGET", "kubernetes")
    monkeypatch.setenv("MLOPS_CLUSTER_DOMAIN", "cluster.example")
    file = Path(__file__).parents[1] / "deploy" / "dagster" / "deployments.yaml"
    services = [one for one in yaml.safe_load_all(file.read_text()) if one["kind"] == "Service"]
    addresses = {f"http://{one['metadata']['name']}.mlops.svc.cluster.example:{one['spec']['ports'][0]['port']}" for one in services}
    assert settings.dagster_url in addresses
    assert "webserver" in settings.dagster_url
    monkeypatch.setenv("MLOPS_DAGSTER_URL", "https://dagster.example/")
    assert settings.dagster_url == "https://dagster.example"


@pytest.mark.parametrize("password", ["very-secret", "very-secret/x", "x?very-secret", "x#very-secret", "very-secret@x", "[very-secret"])
def test_an_address_is_shown_without_its_password_even_if_that_is_not_encoded(password: str) -> None:
    assert (
        without_password(f"postgresql+psycopg2://me:{password}@db:5432/dagster?sslmode=require") == "postgresql+psycopg2://db:5432/dagster"
    )


@pytest.mark.parametrize(
    "text",
    [
        "cannot connect to redis://me:very-secret@cache:6379/0",
        "Port could not be cast to integer value as 'very-secret'",
        "invalid header value b'Bearer another-secret\\n'",
        'invalid dsn "host=db password=third-secret"',
    ],
)
def test_the_words_of_an_error_are_shown_without_what_is_secret(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MLOPS_DAGSTER_DATABASE_URL", "postgresql+psycopg2://me:very-secret/and-more@db:5432/dagster")
    monkeypatch.setenv("MLOPS_GATEWAY_TOKEN", "another-secret\n")
    shown = without_secrets(text)
    assert not [secret for secret in ("very-secret", "another-secret", "third-secret") if secret in shown], shown
    assert shown.startswith(text.split()[0])
