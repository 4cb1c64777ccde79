import itertools
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from mlops_assets.adapters.prediction_log import TOMBSTONE, Answer, LoggedInput, S3PredictionLog
from mlops_assets.ports import Clock
from serving import segments
from serving.metrics import Metrics
from serving.prediction_log import RETRY_SECONDS, Limits, PredictionLog, Unlogged
from serving.segments import Header, Lease
from serving.shipper import FRESH, Shipper
from tests.servers import eventually
from tests.serving.stores import CuttableObjectStore

INPUTS = (LoggedInput("hour", False), LoggedInput("carrier", True))
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
QUICK = Limits(rotate_seconds=0.1)
_ids = itertools.count()


def answer(request_id: str | None = None, **values: object) -> Answer:
    given = {"unit": "u", "role": "live", "score": 0.25, "decision": False, "latency_ms": 1.5, "logged_at": NOON, "event_time": NOON}
    features = values.pop("features", (7.0, "AA"))
    return Answer(request_id or f"r{next(_ids)}", **(given | values), features=features)  # type: ignore[arg-type]


class Process:
    """A serving process's log, and what it has counted."""

    def __init__(self, home: Path, objects: CuttableObjectStore, release: str = "v1", limits: Limits = QUICK, **how: str) -> None:
        self.registry = CollectorRegistry()
        metrics = Metrics("tiny", release, self.registry).log
        self.log = PredictionLog(home, "tiny", release, INPUTS, objects, metrics, limits, **how)  # type: ignore[arg-type]
        self.log.start()

    def lost(self, reason: str) -> float:
        labels = {"model": "tiny", "release": "v1", "reason": reason}
        return self.registry.get_sample_value("mlops_prediction_log_lost_total", labels) or 0.0


@pytest.fixture
def objects() -> CuttableObjectStore:
    return CuttableObjectStore()


@pytest.fixture
def start(tmp_path: Path, objects: CuttableObjectStore) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def begin(**how: object) -> Process:
        started.append(Process(tmp_path, objects, **how))  # type: ignore[arg-type]
        return started[-1]

    yield begin
    objects.down = objects.deaf = False
    for process in started:
        if process.log._thread.is_alive():
            process.log.close()


def logged(objects: CuttableObjectStore) -> list[str]:
    """The request ids in the store, file by file, so that duplicates show."""
    names = [entry.key for entry in objects.kept.list("predictions/tiny/") if entry.size]
    ids: list[str] = []
    for name in names:
        alone = CuttableObjectStore()
        alone.put(name, objects.kept.get(name))
        ids += S3PredictionLog(alone).read("tiny").rows["request_id"].tolist()
    return ids


def left(home: Path) -> list[str]:
    return sorted(path.suffix for path in home.rglob("*") if path.is_file())


def crashed(home: Path, *answers: Answer, tail: bytes = b"", name: str = "dead") -> Path:
    """What a process leaves that was killed."""
    directory = home / "predictions" / "tiny" / "v1"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.lock").touch()
    segment = directory / f"{name}-000001.frames"
    frames = [segments.header_frame(Header("tiny", "v1", name, 1, INPUTS)), *(segments.answers_frame([each]) for each in answers)]
    segment.write_bytes(b"".join(frames) + tail)
    return segment


def test_an_answer_arrives_with_all_its_columns(start, objects, tmp_path):
    process = start()
    process.log.write([answer("a", role="shadow", score=0.75, decision=True), answer("b", features=(None, None))])
    eventually(lambda: len(logged(objects)) == 2)
    rows = S3PredictionLog(objects).read("tiny").rows
    first, second = rows.to_dict("records")
    assert {**first, "model": "tiny"} == {
        "request_id": "a",
        "release": "v1",
        "role": "shadow",
        "unit": "u",
        "score": 0.75,
        "decision": True,
        "latency_ms": 1.5,
        "logged_at": NOON,
        "event_time": NOON,
        "model": "tiny",
        "feature__hour": 7.0,
        "feature__carrier": "AA",
    }
    assert rows[["feature__hour", "feature__carrier"]].isna().iloc[1].all()
    assert second["request_id"] == "b"
    eventually(lambda: left(tmp_path) == [".frames", ".lock"])


def test_a_stop_ships_everything_and_leaves_nothing(start, objects, tmp_path):
    process = start(limits=Limits(3600))
    process.log.write([answer() for _ in range(5000)])
    process.log.close()
    assert len(logged(objects)) == 5000
    assert left(tmp_path) == []


def test_while_the_store_is_down_answers_wait_on_disk_and_then_arrive_once(start, objects):
    objects.down = True
    process = start()
    for number in range(5):
        process.log.write([answer(f"x{number}")])
    assert objects.kept.list("predictions/") == []
    objects.down = False
    eventually(lambda: sorted(logged(objects)) == [f"x{number}" for number in range(5)])


def test_a_stop_without_the_store_leaves_the_answers_to_the_next_process(start, objects, tmp_path):
    objects.down = True
    process = start()
    process.log.write([answer("kept")])
    process.log.close()
    assert ".frames" in left(tmp_path)
    objects.down = False
    start(release="v2").log.close()
    assert logged(objects) == ["kept"]
    assert S3PredictionLog(objects).read("tiny").rows["release"].tolist() == ["v1"]
    assert left(tmp_path) == []


def test_an_upload_whose_answer_was_lost_is_not_doubled(start, objects, tmp_path):
    objects.deaf = True
    process = start()
    process.log.write([answer("once")])
    eventually(lambda: objects.kept.list("predictions/"))
    objects.deaf = False
    eventually(lambda: left(tmp_path) == [".frames", ".lock"])
    assert logged(objects) == ["once"]


def test_a_crash_between_upload_and_removal_does_not_double(start, objects, tmp_path):
    segment = crashed(tmp_path, answer("once"))
    content = segment.read_bytes()
    objects.deaf = True
    process = start()
    eventually(lambda: objects.kept.list("predictions/"))
    process.log.close()
    objects.deaf = False
    assert segment.read_bytes() == content
    start().log.close()
    assert logged(objects) == ["once"]
    assert not segment.exists()


def test_a_crash_right_after_the_removal_leaves_nothing_for_ever(start, objects, tmp_path):
    segment = crashed(tmp_path, answer())
    segment.rename(segment.with_suffix(".key"))
    start().log.close()
    assert left(tmp_path) == []


def test_a_torn_frame_is_cut_and_counted_and_the_rest_is_shipped(start, objects, tmp_path):
    torn = segments.answers_frame([answer(), answer(), answer()])[:-7]
    crashed(tmp_path, answer("whole"), tail=torn)
    process = start()
    eventually(lambda: logged(objects) == ["whole"])
    eventually(lambda: process.lost("torn") == 3)


@pytest.mark.parametrize("spoil", range(0, 60, 7), ids="byte {}".format)
def test_a_frame_that_is_damaged_in_the_middle_costs_no_other(start, objects, tmp_path, spoil):
    damaged = bytearray(segments.answers_frame([answer()]))
    damaged[spoil] ^= 0xFF
    crashed(tmp_path, answer("before"), tail=bytes(damaged) + segments.answers_frame([answer("after")]))
    process = start()
    eventually(lambda: logged(objects) == ["before", "after"])
    eventually(lambda: process.lost("torn") == 1)


def test_a_segment_of_an_earlier_version_is_set_aside_with_what_to_do_about_it(start, objects, tmp_path, caplog):
    earlier = crashed(tmp_path, answer())
    earlier.rename(earlier.with_suffix(".jsonl"))
    process = start()
    eventually(lambda: process.lost("damaged") == 1)
    assert "start a release of that version" in caplog.text
    assert ".damaged" in left(tmp_path)


def test_a_segment_without_a_readable_header_is_set_aside_and_does_not_stop_the_others(start, objects, tmp_path):
    crashed(tmp_path, answer(), name="dead").write_bytes(b"noise")
    crashed(tmp_path, answer("fine"), name="other")
    process = start()
    eventually(lambda: logged(objects) == ["fine"])
    assert process.lost("damaged") == 1
    assert ".damaged" in left(tmp_path)


def test_a_living_process_keeps_its_own_segments(start, objects, tmp_path):
    objects.down = True
    first = start()
    first.log.write([answer("mine")])
    eventually(lambda: ".key" in left(tmp_path))
    second = start()
    assert second.log._left == []
    objects.down = False
    eventually(lambda: logged(objects) == ["mine"])


def test_answers_beyond_the_space_are_lost_counted_and_the_log_goes_on(start, objects):
    objects.down = True
    process = start(limits=Limits(0.1, max_bytes=1500))
    for _ in range(30):
        process.log.write([answer()])
    assert process.lost("space") > 0
    assert "1500 bytes wait to be shipped" in process.log.trouble.why
    objects.down = False
    eventually(lambda: len(logged(objects)) + process.lost("space") == 30)
    eventually(lambda: process.log.trouble is None)
    process.log.write([answer("again")])
    eventually(lambda: "again" in logged(objects))


def test_answers_beyond_the_space_are_refused_where_that_is_declared(start, objects):
    objects.down = True
    process = start(limits=Limits(0.1, max_bytes=1500), on_full="refuse")
    written = write_until_refused(process, 30)
    assert 0 < len(written) < 30
    with pytest.raises(Unlogged, match="1500 bytes wait to be shipped"):
        process.log.require_room()
    objects.down = False
    eventually(lambda: process.log.trouble is None)
    process.log.require_room()
    process.log.write([answer("again")])
    process.log.close()
    assert logged(objects) == [*written, "again"]
    assert process.lost("space") == 0


def test_a_process_that_finds_too_much_waiting_says_so_from_the_start(start, objects, tmp_path):
    crashed(tmp_path, *(answer() for _ in range(20)))
    objects.down = True
    process = start(limits=Limits(0.1, max_bytes=1500), on_full="refuse")
    with pytest.raises(Unlogged, match="1500 bytes wait to be shipped"):
        process.log.write([answer()])
    objects.down = False
    eventually(lambda: process.log.trouble is None)


@pytest.mark.parametrize("durability", ["write", "fdatasync"])
def test_what_the_disk_takes_in_part_is_cut_off_again(start, objects, durability):
    process = start(limits=Limits(3600), on_full="refuse", durability=durability)
    process.log.write([answer("before")])
    size = process.log._segment.size
    with no_file_larger_than(size + 100), pytest.raises(Unlogged, match="File too large"):
        process.log.write([answer("too long" * 100)])
    assert process.log._directory.joinpath(f"{process.log._lease.replica}-000001.frames").stat().st_size == size
    eventually(lambda: process.log.trouble is None)
    process.log.write([answer("after")])
    process.log.close()
    assert logged(objects) == ["before", "after"]


def test_answers_that_a_full_disk_does_not_take_are_counted_where_that_is_declared(start, objects):
    process = start()
    with no_file_larger_than(0):
        for _ in range(3):
            process.log.write([answer()])
        time.sleep(2 * RETRY_SECONDS)
        process.log.write([answer()])
    assert process.lost("disk") == 4
    assert process.registry.get_sample_value("mlops_prediction_log_full", {"model": "tiny", "release": "v1"}) == 1
    eventually(lambda: process.log.trouble is None)
    process.log.write([answer("after")])
    eventually(lambda: logged(objects) == ["after"])


def write_until_refused(process: Process, most: int) -> list[str]:
    """The ids that were taken."""
    written: list[str] = []
    for _ in range(most):
        one = answer()
        try:
            process.log.write([one])
        except Unlogged:
            break
        written.append(one.request_id)
    return written


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The kernel takes a file's bytes up to here, and says so of the rest: a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


def ship_one(objects: CuttableObjectStore, home: Path, clock: Clock) -> Shipper:
    lease = next(Lease.left(home))
    shipper = Shipper(objects, Metrics("tiny", "v1", CollectorRegistry()).log, clock)
    for segment in lease.segments():
        shipper.add(segment)
    shipper.start()
    shipper.close(5)
    lease.give_up()
    return shipper


@pytest.mark.parametrize("later", [FRESH, timedelta(seconds=-1), timedelta(hours=9)])
def test_a_name_that_is_too_old_is_given_up_for_a_new_one(objects, tmp_path, later):
    clock = Hand()
    crashed(tmp_path, answer("late"))
    objects.down = True
    ship_one(objects, tmp_path, clock)
    objects.down = False
    clock.now += later
    ship_one(objects, tmp_path, clock)
    assert logged(objects) == ["late"]
    sizes = {entry.key.rpartition("/")[2][:22]: entry.size == len(TOMBSTONE) for entry in objects.kept.list("predictions/tiny/")}
    stamps = [moment.strftime("%Y%m%dT%H%M%S_%f") for moment in (NOON, clock.now)]
    assert sizes == {stamps[0]: True, stamps[1]: False}


def test_an_old_name_whose_upload_succeeded_after_all_is_kept(objects, tmp_path):
    clock = Hand()
    crashed(tmp_path, answer("once"))
    objects.deaf = True
    ship_one(objects, tmp_path, clock)
    objects.deaf = False
    clock.now += timedelta(hours=1)
    ship_one(objects, tmp_path, clock)
    assert logged(objects) == ["once"]
    assert len(objects.kept.list("predictions/tiny/")) == 1
    assert left(tmp_path) == []


def test_a_crash_after_a_name_was_given_up_does_not_lose_the_segment(objects, tmp_path):
    clock = Hand()
    crashed(tmp_path, answer("kept"))
    objects.down = True
    ship_one(objects, tmp_path, clock)
    objects.down = False
    (tmp_key,) = tmp_path.rglob("*.key")
    objects.kept.create(tmp_key.read_text(), TOMBSTONE)
    clock.now += timedelta(seconds=1)
    ship_one(objects, tmp_path, clock)
    assert logged(objects) == ["kept"]
