"""Small charts as SVG, by classes that the page's style gives their colours. All text is escaped."""

from collections.abc import Sequence
from datetime import datetime
from html import escape

from mlops_assets.core.shares import Span
from mlops_assets.report.facts import Interval, Scores

SPANS = 24
"""How many of the newest spans of traffic are drawn."""

COLOURS = 7
_FULL = 100.0


def colour(release: str, releases: Sequence[str]) -> str:
    """The class by which a release has its colour; seven in a row have different ones."""
    return f"r{releases.index(release) % COLOURS}"


def shares(spans: Sequence[Span], releases: Sequence[str], now: datetime) -> str:
    """Percent of the units by release over time, as stacked steps; copies of requests as a line above.

    Args:
        releases: in an order that stays, by which each has its colour.
    """
    drawn = list(spans[-SPANS:])
    if not drawn:
        return ""
    width, height, left, bottom = 1040.0, 170.0, 30.0, 24.0
    start, total = drawn[0].start, max((now - drawn[0].start).total_seconds(), 1.0)
    inner = width - left

    def x(at: datetime) -> float:
        return left + inner * (at - start).total_seconds() / total

    parts = [_axis(left, width, height - bottom, (0, 50, 100))]
    for span in drawn:
        begin, end, base = x(span.start), x(span.end or now), 0.0
        for release, weight in sorted(span.weights.items(), key=lambda item: releases.index(item[0])):
            top = (height - bottom - 12) * (1 - (base + weight) / _FULL) + 12
            tall = (height - bottom - 12) * weight / _FULL
            title = escape(f"{release}: {weight} % from {span.start:%Y-%m-%d %H:%M} on ({span.change.step_name or span.change.action})")
            parts.append(
                f'<rect class="{colour(release, releases)}" x="{begin:.1f}" y="{top:.1f}" width="{max(end - begin, 0.8):.1f}" '
                f'height="{tall:.1f}"><title>{title}</title></rect>'
            )
            base += weight
        if span.mirror:
            title = escape(f"{span.mirror} gets copies from {span.start:%Y-%m-%d %H:%M} on")
            parts.append(
                f'<rect class="{colour(span.mirror, releases)}" x="{begin:.1f}" y="2" width="{max(end - begin, 0.8):.1f}" '
                f'height="6" rx="2"><title>{title}</title></rect>'
            )
    parts += [_label(left, height - 8, f"{start:%Y-%m-%d %H:%M}", "start"), _label(width, height - 8, f"{now:%Y-%m-%d %H:%M}", "end")]
    return _svg(width, height, "traffic", parts, "Percent of the units by release over time")


def sparkline(values: Sequence[float], limit: float | None) -> str:
    """A series with its limit as a dashed line; the last value is a dot."""
    if not values:
        return ""
    width, height, pad = 130.0, 28.0, 4.0
    top = max([*values, limit or 0.0, 1e-9])
    step = (width - 2 * pad) / max(len(values) - 1, 1)

    def y(value: float) -> float:
        return height - pad - (height - 2 * pad) * value / top

    points = [(pad + step * place, y(value)) for place, value in enumerate(values)]
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    parts = [f'<polyline class="line" points="{line}"/>'] if len(points) > 1 else []
    if limit is not None:
        parts.insert(0, f'<line class="limit" x1="0" x2="{width:g}" y1="{y(limit):.1f}" y2="{y(limit):.1f}"/>')
    over = limit is not None and values[-1] > limit
    parts.append(f'<circle class="{"over" if over else "dot"}" cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="2.6"/>')
    return _svg(width, height, "spark", parts, f"{len(values)} values, the last {values[-1]:.3g}")


def histogram(scores: Sequence[Scores], releases: Sequence[str]) -> str:
    """Distributions of scores over each other: each as the shares of its rows in bins of equal width, the baseline filled.

    Args:
        releases: in an order that stays, by which each has its colour.
    """
    shares_of = {one: [count / max(sum(one.counts), 1) for count in one.counts] for one in scores if sum(one.counts)}
    if not shares_of:
        return ""
    width, height, left, bottom = 500.0, 170.0, 6.0, 22.0
    top = max(max(values) for values in shares_of.values())
    parts = [_axis(left, width, height - bottom, (0.0, 0.5, 1.0), vertical=False)]
    for one, values in shares_of.items():
        step = (width - left) / len(values)
        heights = [(height - bottom - 10) * value / top for value in values]
        path = f"M{left:.1f},{height - bottom:.1f}"
        for place, tall in enumerate(heights):
            path += f"V{height - bottom - tall:.1f}H{left + step * (place + 1):.1f}"
        path += f"V{height - bottom:.1f}"
        kind = "baseline" if one.release is None else f"of-{colour(one.release, releases)}"
        parts.append(f'<path class="dist {kind}" d="{path}"><title>{escape(one.name)}</title></path>')
    return _svg(width, height, "hist", parts, "Distribution of scores")


def interval(expected: Interval | None, true: Interval | None, low: float, high: float) -> str:
    """What was expected as a bar, what it came to as a dot with its interval, on a scale from ``low`` to ``high``."""
    width, height = 220.0, 24.0
    span = max(high - low, 1e-9)

    def x(value: float) -> float:
        return 6 + (width - 12) * (min(max(value, low), high) - low) / span

    parts = [f'<line class="axis" x1="0" x2="{width:g}" y1="12" y2="12"/>']
    if expected is not None:
        begin, end = x(_or(expected.lower, expected.value)), x(_or(expected.upper, expected.value))
        parts.append(f'<rect class="expected" x="{begin:.1f}" y="5" width="{max(end - begin, 2):.1f}" height="14" rx="3"/>')
        parts.append(f'<line class="middle" x1="{x(expected.value):.1f}" x2="{x(expected.value):.1f}" y1="5" y2="19"/>')
    if true is not None:
        begin, end = x(_or(true.lower, true.value)), x(_or(true.upper, true.value))
        parts.append(f'<line class="line" x1="{begin:.1f}" x2="{end:.1f}" y1="12" y2="12"/>')
        parts.append(f'<circle class="dot" cx="{x(true.value):.1f}" cy="12" r="4"/>')
    return _svg(width, height, "interval", parts, "expected and true")


def parts_of(seconds: Sequence[tuple[str, float]], objective: float) -> str:
    """The parts of a drill one after the other; the whole width is what they took, and its share of the objective is told beside."""
    total = sum(value for _, value in seconds)
    if total <= 0:
        return ""
    width, height, x = 500.0, 24.0, 0.0
    parts = []
    for place, (name, value) in enumerate(seconds):
        wide = width * value / total
        title = escape(f"{name}: {value:.2f} s of {objective:g} s")
        parts.append(
            f'<rect class="r{place % 6}" x="{x:.1f}" y="2" width="{max(wide - 2, 1):.1f}" height="20" rx="4"><title>{title}</title></rect>'
        )
        x += wide
    return _svg(width, height, "drill", parts, "Seconds of each part")


def _svg(width: float, height: float, name: str, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg class="{name}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _axis(left: float, right: float, bottom: float, ticks: Sequence[float], vertical: bool = True) -> str:
    """The line below, and marks at the ticks: upwards of percent, or along of scores."""
    parts = [f'<line class="axis" x1="{left:g}" x2="{right:g}" y1="{bottom:g}" y2="{bottom:g}"/>']
    for tick in ticks:
        if vertical:
            y = (bottom - 12) * (1 - tick / _FULL) + 12
            parts.append(f'<line class="grid" x1="{left:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(_label(left - 6, y + 4, f"{tick:g}", "end"))
        else:
            anchor = "start" if tick == ticks[0] else "end" if tick == ticks[-1] else "middle"
            parts.append(_label(left + (right - left) * tick, bottom + 16, f"{tick:g}", anchor))
    return "".join(parts)


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
