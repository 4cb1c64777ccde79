"""Features computed from a request: the expressions themselves, and that a training and a server come to the same."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from threading import Thread
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from mlops_assets.adapters.expressions import Expression
from mlops_assets.adapters.on_demand import check_names, computed
from mlops_assets.core.errors import BadData, SpecError
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.feature_views import FeatureVersion
from mlops_assets.core.on_demand import Computed, OnDemandView, RequestField
from mlops_assets.core.signature import Signature
from serving.inputs import Inputs

WHEN = datetime(2024, 3, 10, 6, 59, 58, tzinfo=UTC)  # two seconds before New York's clocks go forward
TRIP = OnDemandView(
    "trip",
    (RequestField("starts", "timestamp"), RequestField("ends", "timestamp"), RequestField("kind", "string"), RequestField("load")),
    (
        Computed("hour", 'starts.getHours("Europe/Berlin")'),
        Computed("minutes", "double((ends - starts).getSeconds()) / 60.0"),
        Computed("group", 'kind.startsWith("a") ? "first" : (kind == "none" ? null : "other")'),
        Computed("heavy", "load > 1000.0 && rain < 0.5"),
    ),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + 2.0 * b", 7.0),
        ("a > b ? 1 : 0", 0.0),
        ("a <= b", 1.0),
        ("s", "north"),
        ('s.contains("or") && s.size() == 5', 1.0),
        ("t.getHours()", 6.0),
        ('t.getHours("America/New_York")', 1.0),
        ('t.getDayOfWeek("America/New_York")', 0.0),
        ('t.getDate("Pacific/Auckland")', 10.0),
        ("t.getFullYear()", 2024.0),
        ("t.getMonth()", 2.0),
        ("t.getDayOfYear()", 69.0),
        ("t.getSeconds()", 58.0),
        ('(t + duration("2s")).getHours("America/New_York")', 3.0),
        ("null", None),
    ],
)
def test_an_expression_is_cel(text, expected):
    assert Expression(text)({"a": 1.0, "b": 3.0, "s": "north", "t": WHEN}) == expected


@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)),
    st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata"]),
)
def test_the_parts_of_a_time_are_those_of_the_zone(when, zone):
    local = when.astimezone(ZoneInfo(zone))
    parts = {
        "getFullYear": local.year,
        "getMonth": local.month - 1,
        "getDate": local.day,
        "getDayOfMonth": local.day - 1,
        "getDayOfWeek": int(local.strftime("%w")),
        "getDayOfYear": int(local.strftime("%j")) - 1,
        "getHours": local.hour,
        "getMinutes": local.minute,
        "getSeconds": local.second,
    }
    assert {name: Expression(f't.{name}("{zone}")')({"t": when}) for name in parts} == parts


def test_a_time_says_the_same_in_any_zone_that_it_is_given_in():
    there = WHEN.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert Expression("t.getHours()")({"t": there}) == Expression("t.getHours()")({"t": WHEN}) == 6.0


def test_what_names_a_missing_value_is_missing():
    assert Expression("a > 0.0 ? a : b")({"a": 1.0, "b": None}) is None


@pytest.mark.parametrize(
    ("text", "values", "told"),
    [
        ("a / b", {"a": 1.0, "b": 0.0}, "is inf, expected a number that float32 can hold"),
        ("a * 1e300", {"a": 1e300}, "expected a number"),
        ("a + s", {"a": 1.0, "s": "x"}, "a = '1.0', s = 'x'"),
        ('t.getHours("Mars/Olympus")', {"t": WHEN}, "Mars/Olympus"),
        ("[a, a]", {"a": 1.0}, "expected a number"),
        ("unheard(a)", {"a": 1.0}, "unheard"),
    ],
)
def test_what_comes_to_nothing_says_of_which_values(text, values, told):
    with pytest.raises(BadData) as caught:
        Expression(text)(values)
    assert told in str(caught.value)


@pytest.mark.parametrize("text", ["", "a +", "((a)", "a ? b", "for x in y", "a" * 10 + "(", "(" * 3000 + "1" + ")" * 3000])
def test_what_is_not_cel_is_refused(text):
    with pytest.raises(SpecError, match="write it in CEL"):
        Expression(text)


def test_an_expression_cannot_reach_python():
    for text in ("t.__class__", '__import__("os")', "getHours.__globals__", "t.astimezone()"):
        with pytest.raises((BadData, SpecError, KeyError)):
            Expression(text)({"t": WHEN})


def test_a_release_does_not_load_the_librarys_command_line():
    told = 'import sys; from mlops_assets.adapters.expressions import Expression; Expression("1")({}); print(*sys.modules)'
    loaded = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.split()
    assert not {"prompt_toolkit", "rich", "typer"} & set(loaded)


def test_threads_do_not_see_each_others_values():
    expression, wrong = Expression("a * 2.0"), []

    def work(start: int) -> None:
        wrong.extend(n for n in range(start, start + 3000) if expression({"a": float(n)}) != 2.0 * n)

    threads = [Thread(target=work, args=(5000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


TIMES = st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
ROWS = st.fixed_dictionaries(
    {
        "starts": TIMES,
        "ends": TIMES,
        "kind": st.sampled_from([None, "a1", "none", "b"]),
        "load": st.none() | st.floats(-1e6, 1e6),
        "rain": st.none() | st.floats(0, 1),
    }
)


@given(st.lists(ROWS, min_size=1, max_size=8))
def test_a_training_and_a_server_compute_the_same(rows):
    frame = pd.DataFrame(rows).astype({"load": "float64", "rain": "float64", "kind": "object"})
    frame = frame.assign(**{name: pd.to_datetime(frame[name], utc=True).astype("datetime64[us, UTC]") for name in ("starts", "ends")})
    trained = computed((TRIP,), frame)
    features = (Feature("hour"), Feature("minutes"), Feature("group", ("first", "other")), Feature("heavy"), Feature("rain"))
    inputs = Inputs.of(Signature("m", features, "u", 0.5, "t", FeatureVersion("s", (), "c", (TRIP,))))
    for place, row in enumerate(rows):
        said = [row[field.name] for field in inputs.request]
        served = inputs.compute((UNSET, UNSET, UNSET, UNSET, row["rain"]), said, "")
        offline = [None if pd.isna(value) else value for value in trained.iloc[place]]
        assert list(served[:4]) == offline


def test_expressions_name_what_is_said_or_looked_up_and_nothing_else():
    check_names((TRIP,), frozenset({"rain"}))
    with pytest.raises(SpecError, match=r"trip:heavy names rain, expected request fields.*ends, kind, load, starts"):
        check_names((TRIP,), frozenset({"wind"}))


def test_a_row_that_brings_the_feature_keeps_it():
    found = computed((TRIP.only(frozenset({"hour"})),), pd.DataFrame({"hour": [3.0, None]}))
    assert found["hour"].tolist()[0] == 3.0


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"load": [1.0]}, "trip:hour is computed from starts"),
        ({"starts": pd.to_datetime(["2024-01-01"])}, "expected times with their zone"),
    ],
)
def test_events_that_lack_what_is_needed_say_so(columns, told):
    with pytest.raises(BadData, match=told):
        computed((TRIP,), pd.DataFrame(columns))


@pytest.mark.parametrize(
    "make",
    [
        lambda: RequestField("starts", "date"),
        lambda: RequestField("two words"),
        lambda: OnDemandView("a-b", (), ()),
        lambda: OnDemandView("trip", (RequestField("load"),), (Computed("load", "load"),)),
    ],
)
def test_definitions_that_contradict_themselves_are_refused(make):
    with pytest.raises(SpecError):
        make()
