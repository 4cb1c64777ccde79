"""The event log of the local stack: Dagster's own, whose files stay open."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from mlops_assets.event_log import KeptSqliteEventLogStorage, config

KEY = dg.AssetKey("counted")


@dg.asset(key=KEY)
def counted() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"rows": 3}, check_results=[])


def names(run: dg.ExecuteInProcessResult, logs: dg.DagsterInstance) -> list[str]:
    """The events of a run that ``logs`` has of its step and of its end."""
    found = [entry.dagster_event.event_type_value for entry in logs.all_logs(run.run_id) if entry.dagster_event]
    return [name for name in found if name in STEP]


STEP = ["ASSET_MATERIALIZATION_PLANNED", "STEP_START", "STEP_OUTPUT", "ASSET_MATERIALIZATION", "STEP_SUCCESS", "PIPELINE_SUCCESS"]


def instance(home: Path) -> dg.DagsterInstance:
    return dg.DagsterInstance.local_temp(str(home), overrides={"event_log_storage": config(home)})


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with instance(tmp_path) as made:
        yield made


def test_it_is_what_dagster_uses_where_it_is_configured(ours: dg.DagsterInstance) -> None:
    assert isinstance(ours.event_log_storage, KeptSqliteEventLogStorage)


def test_dagsters_own_class_reads_what_it_wrote_and_it_reads_what_that_class_wrote(tmp_path: Path) -> None:
    with instance(tmp_path) as ours:
        first = dg.materialize([counted], instance=ours)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as own:
        assert isinstance(own.event_log_storage, SqliteEventLogStorage)
        assert not isinstance(own.event_log_storage, KeptSqliteEventLogStorage)
        assert names(first, own) == STEP
        second = dg.materialize([counted], instance=own)
    with instance(tmp_path) as ours:
        assert names(second, ours) == STEP
        assert {record.run_id for record in ours.fetch_materializations(KEY, limit=10).records} == {first.run_id, second.run_id}


def test_a_process_that_is_killed_loses_nothing_that_it_had_written(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
import dagster as dg
from tests.test_event_log import KEY, instance
with instance(Path({str(tmp_path)!r})) as ours:
    for number in range(5_000):
        ours.report_runless_asset_event(dg.AssetMaterialization(KEY, metadata={{"number": number}}))
        print(number, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        told = [int(line) for line, _ in zip(writer.stdout, range(40), strict=False)]
        os.kill(writer.pid, signal.SIGKILL)
        told += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
    with instance(tmp_path) as ours:
        records = ours.fetch_materializations(KEY, limit=10_000).records
    known = {int(record.asset_materialization.metadata["number"].value) for record in records if record.asset_materialization}  # type: ignore[call-overload]
    assert set(told) <= known
    assert len(records) == len(known)


def test_who_watches_a_run_is_told_of_its_events_while_another_process_has_its_file_open(tmp_path: Path) -> None:
    seen: list[str] = []
    with instance(tmp_path) as writer, instance(tmp_path) as reader:
        run = writer.create_run_for_job(dg.Definitions([counted]).resolve_implicit_global_asset_job_def())
        reader.event_log_storage.watch(
            run.run_id, None, lambda entry, _: entry.dagster_event.is_engine_event and seen.append(entry.message)
        )
        for number in range(3):
            writer.report_engine_event(f"word {number}", run)
            deadline = time.monotonic() + 10
            while len(seen) <= number and time.monotonic() < deadline:
                time.sleep(0.01)
            assert seen == [f"word {n}" for n in range(number + 1)]


@pytest.mark.long
def test_of_many_runs_few_files_stay_open_and_all_are_read(ours: dg.DagsterInstance) -> None:
    runs = [dg.materialize([counted], instance=ours) for _ in range(12)]
    for run in [*runs, *reversed(runs)]:
        assert names(run, ours) == STEP
    opened = {os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{each}")}
    files = {Path(name).name for name in opened if name.endswith(".db") and "/history/runs/" in name}
    assert 1 < len(files) <= 8


def test_wiping_it_leaves_nothing_and_goes_on(ours: dg.DagsterInstance) -> None:
    run = dg.materialize([counted], instance=ours)
    ours.event_log_storage.wipe()
    assert not ours.all_logs(run.run_id)
    assert not ours.fetch_materializations(KEY, limit=1).records
    again = dg.materialize([counted], instance=ours)
    assert len(ours.fetch_materializations(KEY, limit=10).records) == 1
    assert names(again, ours) == STEP
