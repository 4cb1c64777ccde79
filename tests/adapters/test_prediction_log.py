from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.adapters.memory import MemoryObjectStore
from mlops_assets.adapters.prediction_log import TOMBSTONE, Answer, LoggedInput, S3PredictionLog, object_key, to_parquet
from mlops_assets.core.errors import BadData

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SETTLE = timedelta(seconds=60)
HOUR = LoggedInput("hour", False)


class World:
    """A store, a clock and the log that is read."""

    def __init__(self) -> None:
        self.objects, self.now, self.shipped = MemoryObjectStore(), NOON, 0
        self.log = S3PredictionLog(self.objects, SETTLE, lambda: self.now)

    def ship(
        self, *ids: str, named: datetime | None = None, release: str = "v1", role: str = "live", feature=HOUR, value: object = 7.0
    ) -> None:
        self.shipped += 1
        answers = [Answer(each, "u", role, 0.5, True, 1.0, NOON, NOON, (value,)) for each in ids]  # type: ignore[arg-type]
        key = object_key("tiny", named or self.now, release, "a", self.shipped)
        self.objects.create(key, to_parquet("tiny", release, (feature,), answers))

    def read(self, after: str = "") -> tuple[list[str], str]:
        found = self.log.read("tiny", after)
        return found.rows["request_id"].tolist(), found.position


@pytest.fixture
def world() -> World:
    return World()


def test_an_empty_log_has_all_columns_and_no_row(world):
    rows = world.log.read("tiny").rows
    assert len(rows) == 0
    assert {"request_id", "release", "role", "unit", "score", "decision", "latency_ms", "logged_at", "event_time"} <= set(rows.columns)
    assert str(rows["logged_at"].dtype) == "datetime64[us, UTC]"
    assert list(world.log.read("tiny", columns=["score", "feature__hour"]).rows.columns) == ["score", "feature__hour"]


def test_what_was_read_is_not_read_again(world):
    world.ship("a")
    first, position = world.read()
    world.ship("b")
    second, position = world.read(position)
    assert (first, second, world.read(position)[0]) == (["a"], ["b"], [])


def test_a_long_log_is_read_some_files_at_a_time(world):
    for n in range(5):
        world.ship(f"a{n}", f"b{n}")
        world.now += timedelta(seconds=50)
    found, position = [], ""
    while True:
        read = world.log.read("tiny", position, limit=3)
        if read.rows.empty:
            break
        found.append(read.rows["request_id"].tolist())
        position = read.position
    assert found == [["a0", "b0", "a1", "b1"], ["a2", "b2", "a3", "b3"], ["a4", "b4"]]
    world.ship("late", named=world.now - timedelta(seconds=40))
    assert world.read(position)[0] == ["late"]


def test_a_file_that_shows_up_after_a_later_name_was_read_is_read_once(world):
    world.now += timedelta(seconds=50)
    world.ship("later")
    _, position = world.read()
    world.ship("earlier", named=NOON)
    found, position = world.read(position)
    assert found == ["earlier"]
    world.now += timedelta(seconds=200)
    world.ship("much-later")
    assert world.read(position)[0] == ["much-later"]


def test_the_end_of_the_log_lies_after_everything_that_was_shipped(world):
    world.ship("old")
    world.now += timedelta(seconds=5)
    position = world.log.position("tiny")
    assert world.read(position)[0] == []
    world.ship("new", named=NOON)
    assert world.read(position)[0] == ["new"]


def test_the_end_of_an_empty_log_is_before_what_comes(world):
    position = world.log.position("tiny")
    world.ship("first")
    assert world.read(position)[0] == ["first"]


def test_a_position_stays_short_however_long_the_log_is(world):
    for _ in range(300):
        world.now += timedelta(seconds=10)
        world.ship("x")
    assert len(world.read()[1]) < 200


def test_a_fast_clock_of_one_shipper_hides_nothing_of_the_others(world):
    world.ship("from-the-future", named=NOON + timedelta(hours=1))
    _, position = world.read()
    world.now += timedelta(seconds=10)
    world.ship("now")
    assert world.read(position)[0] == ["now"]


def test_a_request_answered_twice_counts_once_by_release_and_role(world):
    world.ship("a", "a")
    world.ship("a", role="shadow", release="v2")
    rows = world.log.read("tiny").rows
    assert list(zip(rows["request_id"], rows["release"], rows["role"], strict=True)) == [("a", "v1", "live"), ("a", "v2", "shadow")]


def test_a_name_that_was_given_up_holds_nothing(world):
    world.objects.create(object_key("tiny", NOON, "v1", "a", 9), TOMBSTONE)
    world.ship("a")
    assert world.read()[0] == ["a"]


def test_only_the_columns_asked_for_are_returned_in_their_order(world):
    world.ship("a")
    rows = world.log.read("tiny", columns=["feature__hour", "score", "feature__unheard"]).rows
    assert list(rows.columns) == ["feature__hour", "score", "feature__unheard"]
    assert rows["feature__hour"].tolist() == [7.0]
    assert rows["feature__unheard"].isna().all()


def test_releases_with_other_features_stand_below_each_other(world):
    world.ship("a")
    world.ship("b", release="v2", feature=LoggedInput("wind", False))
    world.ship("c", release="v3", feature=LoggedInput("hour", True), value="noon")
    rows = world.log.read("tiny").rows
    assert rows["feature__hour"].tolist() == ["7", None, "noon"]
    assert rows["feature__wind"].isna().tolist() == [True, False, True]


def test_models_whose_names_begin_alike_are_kept_apart(world):
    world.objects.create(object_key("tiny-two", NOON, "v1", "a", 1), to_parquet("tiny-two", "v1", (), []))
    assert world.read()[0] == []


def test_a_foreign_file_is_named_in_the_error(world):
    world.objects.create(object_key("tiny", NOON, "v1", "a", 1), b"not parquet")
    with pytest.raises(BadData, match="20261123T120000_000000-v1-a-000001"):
        world.read()


@pytest.mark.parametrize("text", ["12", "[]", "nonsense", '["yesterday"]', "{}"])
def test_a_position_that_is_none_is_refused(world, text):
    with pytest.raises(BadData, match="position"):
        world.read(text)


files = st.lists(st.tuples(st.integers(0, 600), st.integers(0, 50)), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(files, st.sets(st.integers(0, 660), max_size=12))
def test_whatever_comes_within_the_settle_time_is_read_exactly_once(named_and_late, reads):
    world = World()
    events = [(named + late, 0, f"f{place}", named) for place, (named, late) in enumerate(named_and_late)]
    events += [(second, 1, "", 0) for second in reads | {700}]
    seen: list[str] = []
    position = ""
    for second, _, name, named in sorted(events):
        world.now = NOON + timedelta(seconds=second)
        if name:
            world.ship(name, named=NOON + timedelta(seconds=named))
        else:
            found, position = world.read(position)
            seen += found
    assert sorted(seen) == sorted(f"f{place}" for place in range(len(named_and_late)))


def test_the_newest_shipment_is_known_by_its_name(world):
    assert world.log.newest("tiny", NOON - timedelta(days=1)) is None
    world.ship("a", named=NOON)
    world.ship("b", named=NOON + timedelta(hours=2))
    assert world.log.newest("tiny", NOON - timedelta(days=1)) == NOON + timedelta(hours=2)
    assert world.log.newest("tiny", NOON + timedelta(hours=2)) is None
    world.objects.create(object_key("tiny", NOON + timedelta(hours=3), "v1", "a", 99), TOMBSTONE)
    assert world.log.newest("tiny", NOON) == NOON + timedelta(hours=2)


def test_a_request_is_found_with_the_answer_to_its_copy_and_few_files_are_read(world):
    for minute in range(30):
        world.ship("wanted" if minute == 20 else f"r{minute}", named=NOON + timedelta(minutes=minute - 20))
    world.ship("wanted", named=NOON + timedelta(minutes=3), release="v2", role="shadow", feature=LoggedInput("wind", False))
    read, get = [], world.objects.get
    world.objects.get = lambda key: read.append(key) or get(key)
    found = world.log.find("tiny", "wanted", NOON - timedelta(days=1))
    assert found[["release", "role"]].values.tolist() == [["v2", "shadow"], ["v1", "live"]]
    assert found["feature__wind"].tolist()[0] == 7.0
    assert len(read) == 12  # those from a minute before it was answered on: none is shipped before it was logged


def test_a_request_is_looked_for_no_further_back_than_asked_and_a_tombstone_holds_none(world):
    world.ship("old", named=NOON - timedelta(hours=2))
    world.objects.create(object_key("tiny", NOON, "v1", "b", 1), TOMBSTONE)
    assert len(world.log.find("tiny", "old", NOON - timedelta(hours=1))) == 0
    assert len(world.log.find("tiny", "old", NOON - timedelta(hours=3))) == 1
    assert len(world.log.find("tiny", "another", NOON - timedelta(hours=3))) == 0


def test_of_a_request_that_was_sent_twice_the_newest_answer_is_found(world):
    world.ship("twice", named=NOON, value=1.0)
    world.ship("twice", named=NOON + timedelta(seconds=30), value=2.0)
    assert world.log.find("tiny", "twice", NOON)["feature__hour"].tolist() == [2.0]
