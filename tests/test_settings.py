from pathlib import Path

import pytest

from mlops_assets.core.errors import MlopsError
from mlops_assets.settings import Settings


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
