"""The report page: complete when much is known, honest when nothing is, and safe whatever the data say."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from mlops_assets.core.policy import Author, Change
from mlops_assets.core.shares import Span
from mlops_assets.report import charts, page, render
from mlops_assets.report.facts import (
    DriftFacts,
    DriftRow,
    DrillFacts,
    Facts,
    Interval,
    Metric,
    ReleaseRow,
    Scores,
    Told,
    TrafficRow,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
EVIL = "<script>alert('&')</script>"
NOTHING = Facts("tiny", "", (), NOW, "champion none", None, None, None, (), (), (), (), None, (), "No label.", (), (), None, None, {})


def span(hours: int, weights: dict[str, int], mirror: str | None = None, name: str = "canary-5") -> Span:
    start = NOW - timedelta(hours=hours)
    return Span(start, None, Change(hours, start, "advance", "v2", Author("ada", "why"), step_name=name), weights, mirror)


def much(text: str) -> Facts:
    """A page's facts with ``text`` wherever data may put one."""
    told = Told(text, "fail", text, NOW)
    row = {"feature": text, "view": text, "rows": 10, "null_rate": 0.5, "top": text, "distinct": 3}
    numbers = dict.fromkeys(("mean", "std", "min", "median", "max"), 1.5)
    return Facts(
        model=text,
        description=text,
        owners=(text,),
        made_at=NOW,
        live=text,
        champion="v1",
        since=NOW - timedelta(days=3),
        challenger=text,
        spans=(replace(span(9, {"v1": 100}, "v2", text), end=NOW - timedelta(hours=3)), span(3, {"v1": 95, "v2": 5}, name=text)),
        releases=(ReleaseRow("v2", NOW, text, text, text, text, text, text, "http://127.0.0.1/a?b=1&c=2"),),
        traffic=(TrafficRow("v1", 1000, 0.01, 1.0, 2.0, 3.0),),
        scores=(Scores(text, None, (1, 2, 3)), Scores(text, "v1", (3, 2, 1))),
        drift=DriftFacts(NOW, text, 100, text, (DriftRow(text, "fail", 0.5, 0.2, 0.3, (0.1, 0.5)),), "http://127.0.0.1/d"),
        metrics=(Metric(text, Interval(0.7, 0.6, 0.8), Interval(0.65, 0.6, 0.7)),),
        labelled=text,
        features=({**row, **numbers},),
        fresh=(told,),
        skew=told,
        drill=DrillFacts(told, "v1", 300.0, {"artifact": 0.5, "ready": 1.5}),
        links={text: "http://127.0.0.1/x"},
    )


class Tags(HTMLParser):
    """Which elements a page has, and how deep they are left open."""

    VOID = frozenset({"meta", "br", "img", "link", "rect", "line", "circle", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize("facts", [NOTHING, much("ordinary"), much(EVIL)], ids=["nothing known", "much known", "evil"])
def test_a_page_is_whole_html_without_script_and_asks_nobody_for_anything(facts: Facts) -> None:
    text = render(facts)
    tags = Tags(text)
    assert tags.open == []
    assert "script" not in tags.seen
    assert not {"img", "link", "iframe", "object"} & set(tags.seen)
    asked = [value for name, value in tags.attributes if name in ("src", "srcset", "data", "action") or name.startswith("on")]
    assert asked == []
    assert "@import" not in text
    assert "url(" not in text


def test_whatever_comes_from_data_is_escaped_wherever_it_stands() -> None:
    text = render(much(EVIL))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 20


def test_an_address_that_is_none_is_no_link() -> None:
    row = replace(much("ordinary").releases[0], cause="javascript:alert(1)")
    assert "javascript:" not in render(replace(much("ordinary"), releases=(row,)))


def test_a_page_says_of_everything_what_is_not_known_yet() -> None:
    text = render(NOTHING)
    for said in (
        "no release is in production",
        "No release had any traffic yet",
        "The gateways have counted nothing",
        "No release was registered yet",
        "No scores yet",
        "No label.",
        "No drift report was made yet",
        "No drill was made yet",
        "No training set was made yet",
    ):
        assert said in text


def test_it_is_readable_in_light_and_in_dark() -> None:
    text = render(much("ordinary"))
    assert "color-scheme:light dark" in text
    assert text.count("@media (prefers-color-scheme:dark)") == 2  # the page's and the charts'


RELEASES = ["v1", "v2"]


@pytest.mark.parametrize(
    "svg",
    [
        charts.shares(much(EVIL).spans, RELEASES, NOW),
        charts.sparkline([0.1, 0.5], 0.2),
        charts.sparkline([0.1], None),
        charts.histogram(much(EVIL).scores, RELEASES),
        charts.interval(Interval(0.7), None, 0, 1),
        charts.interval(None, Interval(0.7, 0.6, 0.8), 0, 1),
        charts.parts_of([("ready", 1.5), (EVIL, 0.5)], 300),
        page.standalone(charts.sparkline([0.1, 0.5], 0.2)),
    ],
)
def test_a_chart_is_well_formed_and_stays_in_its_box(svg: str) -> None:
    root = ElementTree.fromstring(svg)
    _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
    for element in root.iter():
        x, y = float(element.get("x", 0)), float(element.get("y", 0))
        assert -0.1 <= x <= width + 0.1
        assert -0.1 <= y <= height + 0.1
        assert x + float(element.get("width", 0).rstrip("%") if isinstance(element.get("width"), str) else 0) <= width + 1


@pytest.mark.parametrize("svg", [charts.shares((), [], NOW), charts.sparkline([], 0.2), charts.histogram((), []), charts.parts_of([], 1)])
def test_of_nothing_nothing_is_drawn(svg: str) -> None:
    assert svg == ""


def test_shares_are_stacked_to_the_whole_and_last_as_long_as_they_did() -> None:
    root = ElementTree.fromstring(charts.shares(much("x").spans, RELEASES, NOW))
    drawn = [(one.get("class"), float(one.get("width")), float(one.get("height"))) for one in root.iter() if one.tag.endswith("rect")]
    champion, copies, most, some = drawn
    assert (champion[0], copies[0], most[0], some[0]) == ("r0", "r1", "r0", "r1")
    assert champion[1] == pytest.approx(2 * most[1], rel=0.01)  # six hours and three
    assert most[2] + some[2] == pytest.approx(champion[2], abs=0.2)
    assert some[2] / champion[2] == pytest.approx(0.05, abs=0.005)


def test_the_last_value_above_its_limit_is_marked() -> None:
    assert re.search(r'<circle class="over"', charts.sparkline([0.1, 0.3], 0.2))
    assert re.search(r'<circle class="dot"', charts.sparkline([0.3, 0.1], 0.2))
