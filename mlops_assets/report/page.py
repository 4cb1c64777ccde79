"""Facts as one HTML page: no script, nothing from elsewhere, and whatever comes from data is escaped."""

from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from mlops_assets.core.policy import release_number
from mlops_assets.report import charts
from mlops_assets.report.facts import Facts

if TYPE_CHECKING:
    from jinja2 import Template


def render(facts: Facts) -> str:
    """The page of a model."""
    from markupsafe import Markup

    releases = releases_of(facts)
    figures = [value for metric in facts.metrics for side in (metric.expected, metric.true) if side for value in _ends(side)]
    low, high = min([0.0, *figures]), max([1.0, *figures])
    return _template().render(
        facts=facts,
        with_traffic=[release for release in releases if any(release in (*span.weights, span.mirror) for span in facts.spans)],
        now=facts.spans[-1] if facts.spans else None,
        colour=lambda release: charts.colour(release, releases) if release in releases else "",
        shares=Markup(charts.shares(facts.spans, releases, facts.made_at)),  # noqa: S704 : charts escape what they write
        histogram=Markup(charts.histogram(facts.scores, releases)),  # noqa: S704
        sparkline=lambda values, limit: Markup(charts.sparkline(values, limit)),  # noqa: S704
        interval=lambda metric: Markup(charts.interval(metric.expected, metric.true, low, high)),  # noqa: S704
        parts=lambda drill: Markup(charts.parts_of(list(drill.parts.items()), drill.objective)),  # noqa: S704
    )


def releases_of(facts: Facts) -> list[str]:
    """Every release that the page names, in their order, by which each has its colour."""
    in_traffic = {release for span in facts.spans for release in (*span.weights, *([span.mirror] if span.mirror else []))}
    return sorted({row.release for row in facts.releases} | in_traffic, key=release_number)


def standalone(svg: str) -> str:
    """A chart with the page's colours inside it, to be shown alone."""
    return svg.replace(">", f"><style>{_STYLE_OF_CHARTS}</style>", 1) if svg else ""


@cache
def _template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mlops_assets.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "percent": percent, "time": time, "age": age, "seconds": seconds}
    environment.globals |= {"style_of_charts": _STYLE_OF_CHARTS}
    return environment.get_template("page.html.j2")


def number(value: Any, digits: int = 4) -> str:
    """A figure with its significant digits; a dash for none.

    >>> number(0.123456), number(1234567), number(None), number("AA")
    ('0.1235', '1,234,567', '–', 'AA')
    """
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def percent(value: float | None, digits: int = 2) -> str:
    """A share in percent.

    >>> percent(0.0123), percent(None)
    ('1.23 %', '–')
    """
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def seconds(value: float) -> str:
    """A duration a person can read.

    >>> seconds(12.345), seconds(0.00123)
    ('12.35 s', '1.2 ms')
    """
    return f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.1f} ms"


def time(value: datetime | None) -> str:
    return "–" if value is None else f"{value:%Y-%m-%d %H:%M}"


def age(value: datetime | None, now: datetime) -> str:
    """How long ago, in the largest unit that fits.

    >>> from datetime import UTC
    >>> age(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, 5, tzinfo=UTC))
    '2 d'
    """
    if value is None:
        return "–"
    passed = max(now - value, timedelta(0))
    for unit, length in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1))):
        if passed >= length:
            return f"{passed // length} {unit}"
    return f"{passed.total_seconds():.0f} s"


def _ends(side: Any) -> list[float]:
    return [value for value in (side.lower, side.value, side.upper) if value is not None]


_STYLE_OF_CHARTS = (
    "svg{--r0:#2f6fde;--r1:#e07b1f;--r2:#1d9a6c;--r3:#8a5bd8;--r4:#c8437f;--r5:#7a8a2a;--r6:#6b7785;"
    "--mute:#8a94a3;--rule:#e3e7ee;--bad:#c93c37}"
    "@media (prefers-color-scheme:dark){svg{--r0:#6ba1ff;--r1:#f2a45c;--r2:#4cc795;--r3:#b695f5;--r4:#ee83b0;--r5:#b7c65e;--r6:#9aa6b5;"
    "--mute:#8793a5;--rule:#2b3442;--bad:#ff7b72}}"
    ".r0{fill:var(--r0)}.r1{fill:var(--r1)}.r2{fill:var(--r2)}.r3{fill:var(--r3)}.r4{fill:var(--r4)}.r5{fill:var(--r5)}.r6{fill:var(--r6)}"
    ".traffic rect{fill-opacity:.82;shape-rendering:crispEdges}"
    "svg text{font:11.5px system-ui,sans-serif;fill:var(--mute)}.axis,.grid{stroke:var(--rule);stroke-width:1}"
    ".line{fill:none;stroke:var(--r0);stroke-width:1.6}.limit{stroke:var(--bad);stroke-width:1;stroke-dasharray:3 3}"
    ".dot{fill:var(--r0)}.over{fill:var(--bad)}.middle{stroke:var(--r6);stroke-width:2}.expected{fill:var(--r6);fill-opacity:.28}"
    ".dist{fill:none;stroke-width:1.8;stroke-linejoin:round}.dist.baseline{fill:var(--mute);fill-opacity:.22;stroke:var(--mute)}"
    + "".join(f".dist.of-r{n}{{stroke:var(--r{n})}}" for n in range(charts.COLOURS))
)
