"""``python -m mlops_assets.exporter --port N``: Prometheus is answered on loopback until SIGTERM."""

import argparse
import importlib
import logging
import signal
import sys
import threading

import dagster as dg
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.process_collector import ProcessCollector

from mlops_assets.adapters.local import local_platform
from mlops_assets.exporter.reader import PlatformCollector, Reader
from mlops_assets.settings import HOST, Settings


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mlops_assets.exporter", description="Show Prometheus what Dagster and the policies say."
    )
    parser.add_argument("--port", type=int, required=True, help=f"the port on {HOST} to listen on")
    parser.add_argument("--module-name", default="mlops_assets.definitions", help="the module whose load_specs() names the models")
    told = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings, ended = Settings.from_environment(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    specs = importlib.import_module(told.module_name).load_specs()
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        collector = PlatformCollector(Reader(specs, local_platform(settings), instance), settings.sensor_seconds)
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(collector)
        collector.start()
        server, _ = start_http_server(told.port, HOST, registry)
        ended.wait()
        server.shutdown()
        collector.stop()


if __name__ == "__main__":
    main()
