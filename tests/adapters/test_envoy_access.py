"""What callers of a real Envoy have to bring: a token, a certificate, or nothing."""

import http.client
import ssl
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops_assets.adapters.envoy_access import Access
from mlops_assets.core.errors import SpecError
from mlops_assets.core.routing import Route, Share
from tests.authority import Authority, context
from tests.servers import HOST, EnvoyServer, Upstream, ask, eventually

Started = Callable[[Access], tuple[EnvoyServer, Upstream]]


@pytest.fixture
def started(tmp_path: Path, upstream) -> Iterator[Started]:
    """Start an Envoy with this access, and behind it a release of the model ``guarded``."""
    servers: list[EnvoyServer] = []

    def start(access: Access) -> tuple[EnvoyServer, Upstream]:
        server = EnvoyServer(tmp_path / f"envoy{len(servers)}", access)
        servers.append(server)
        server.directory.mkdir()
        server.start()
        v1 = upstream("v1")
        server.gateway().apply(Route("guarded", 1, (Share("v1", 0, 100),), None, {"v1": v1.endpoint}))
        return server, v1

    yield start
    for server in servers:
        server.stop()


def ask_by_tls(server: EnvoyServer, told: ssl.SSLContext, **headers: str) -> int:
    """The status of one answer; raises ssl.SSLError or OSError if the gateway does not speak with this caller."""
    connection = http.client.HTTPSConnection(HOST, server.port, timeout=10, context=told)
    try:
        connection.request("POST", "/models/guarded/predict", b"{}", headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_without_a_word_in_the_environment_everybody_may_ask(started: Started):
    server, _ = started(Access.from_environment({}))
    assert server.predict("guarded").status == 200


def test_a_token_lets_a_caller_in_and_no_release_sees_it(started: Started):
    server, release = started(Access.from_environment({"MLOPS_CLIENT_TOKENS": "first-secret, second-secret"}))
    assert server.predict("guarded").status == 401
    assert server.predict("guarded", authorization="Bearer wrong").status == 401
    assert ask(server.port, "/v2/models/guarded/infer").status == 401
    assert release.seen == []
    for token in ("first-secret", "second-secret"):
        assert server.predict("guarded", authorization=f"Bearer {token}").status == 200
    assert all("authorization" not in headers for _, headers in release.seen)


def test_tokens_are_for_no_other_users_eyes(started: Started):
    access = Access.from_environment({"MLOPS_CLIENT_TOKENS": "first-secret"})
    server, _ = started(access)
    having = [path for path in server.directory.iterdir() if path.is_file() and b"first-secret" in path.read_bytes()]
    assert [path.name for path in having] == ["bootstrap.json"]
    assert stat.S_IMODE(having[0].stat().st_mode) == 0o600
    assert "first-secret" not in repr(access)


def test_probes_ask_for_the_gateways_health_without_a_token_and_for_nothing_else(started: Started):
    server, _ = started(Access.from_environment({"MLOPS_CLIENT_TOKENS": "first-secret"}))
    assert ask(server.health_port, "/v2/health/live", method="GET").status == 200
    assert ask(server.health_port, "/models/guarded/predict").status == 404


def test_tls_encrypts_and_a_renewed_certificate_is_used_without_a_restart(started: Started, tmp_path: Path):
    authority, later = Authority(), Authority()
    authority.issue(tmp_path, "tls")
    (tmp_path / "ca.crt").write_bytes(authority.pem)  # as cert-manager adds it: nobody has asked for certificates of callers
    server, _ = started(Access.from_environment({"MLOPS_GATEWAY_TLS": str(tmp_path)}))
    assert ask_by_tls(server, context(authority)) == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        ask_by_tls(server, context(later))
    with pytest.raises((OSError, http.client.HTTPException)):
        server.predict("guarded")

    later.issue(tmp_path, "tls")

    def renewed() -> bool:
        try:
            return ask_by_tls(server, context(later)) == 200
        except ssl.SSLCertVerificationError:
            return False

    eventually(renewed)


def test_with_an_authority_callers_need_a_certificate_that_it_has_signed(started: Started, tmp_path: Path):
    authority, stranger = Authority(), Authority()
    authority.issue(tmp_path, "tls")
    (tmp_path / "callers.crt").write_bytes(authority.pem)
    authority.issue(tmp_path, "caller")
    stranger.issue(tmp_path, "stranger")
    told = {
        "MLOPS_GATEWAY_TLS": str(tmp_path),
        "MLOPS_GATEWAY_CLIENT_CA": str(tmp_path / "callers.crt"),
        "MLOPS_CLIENT_TOKENS": "and-a-token",
    }
    server, _ = started(Access.from_environment(told))
    for refused in (context(authority), context(authority, tmp_path, "stranger")):
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            ask_by_tls(server, refused, authorization="Bearer and-a-token")
    assert ask_by_tls(server, context(authority, tmp_path)) == 401
    assert ask_by_tls(server, context(authority, tmp_path), authorization="Bearer and-a-token") == 200
    assert ask(server.health_port, "/v2/health/ready", method="GET").status == 200


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"MLOPS_GATEWAY_TLS": "/nowhere"}, "MLOPS_GATEWAY_TLS: got /nowhere without tls.crt and tls.key"),
        ({"MLOPS_GATEWAY_CLIENT_CA": "/some"}, "MLOPS_GATEWAY_CLIENT_CA: got /some without MLOPS_GATEWAY_TLS"),
        ({"MLOPS_CLIENT_TOKENS": " , "}, "MLOPS_CLIENT_TOKENS: got no token"),
        ({"MLOPS_CLIENT_TOKENS": "two words"}, "MLOPS_CLIENT_TOKENS: got a token that a header cannot carry"),
        ({"MLOPS_CLIENT_TOKENS": "ümlaut"}, "MLOPS_CLIENT_TOKENS: got a token that a header cannot carry"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(environment, told):
    with pytest.raises(SpecError, match=told):
        Access.from_environment(environment)


def test_a_token_that_is_given_twice_is_one():
    assert Access.from_environment({"MLOPS_CLIENT_TOKENS": "a,b,a"}).tokens == ("a", "b")


def test_a_certificate_without_its_own_key_and_an_authority_that_is_none_are_refused(tmp_path: Path):
    authority = Authority()
    authority.issue(tmp_path, "tls")
    (tmp_path / "ca.crt").write_bytes(b"")
    told = {"MLOPS_GATEWAY_TLS": str(tmp_path), "MLOPS_GATEWAY_CLIENT_CA": str(tmp_path / "ca.crt")}
    with pytest.raises(SpecError, match="MLOPS_GATEWAY_CLIENT_CA: .* cannot be used"):
        Access.from_environment(told)
    authority.issue(tmp_path, "other")
    (tmp_path / "other.key").rename(tmp_path / "tls.key")
    with pytest.raises(SpecError, match=r"MLOPS_GATEWAY_TLS: tls.crt and tls.key in .* cannot be used .* its own key"):
        Access.from_environment({"MLOPS_GATEWAY_TLS": str(tmp_path)})
