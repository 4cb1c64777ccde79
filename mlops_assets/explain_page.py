"""What :mod:`mlops_assets.explain` found, for a person at a terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlops_assets.core.policy import Change
from mlops_assets.explain import Explained

_TIME = "%Y-%m-%d %H:%M:%S"


def show(explained: Sequence[Explained], console: Console) -> None:
    """Print every answer to the request."""
    for one in explained:
        _show(one, console)


def _show(one: Explained, console: Console) -> None:
    given = "answered" if one.role == "live" else "scored a copy, which nobody got,"
    console.print(f"[bold]{escape(one.model)} {one.release}[/] {given} {one.answered_at:{_TIME}} UTC: {escape(one.share)}", highlight=False)
    threshold = "" if one.threshold is None else f" (yes from {one.threshold:g})"
    label = "not known" if one.label is None else str(one.label)
    _pairs(
        console,
        {
            "request": one.request_id,
            "unit": one.unit,
            "event time": f"{one.event_time:{_TIME}} UTC",
            **{f"entity {name}": str(value) for name, value in one.entities.items()},
            "score": f"{one.score:.6f}{threshold}",
            "decision": "yes" if one.decision else "no",
            "came true": label,
            "latency": f"{one.latency_ms:.2f} ms",
        },
    )
    _table(
        console,
        ("feature", "value", "from", "valid since (UTC)"),
        [(item.name, _text(item.value), item.origin, f"{item.since:{_TIME}}" if item.since else "") for item in one.values],
    )
    _pairs(console, one.made_of)
    console.print(f"quality gate: [bold]{escape(one.gate)}[/] {escape(one.gate_evidence)}", highlight=False)
    figures = [(v.name, v.outcome.value, _text(v.value), _text(v.threshold), v.reason) for v in one.gate_verdicts]
    if figures:
        _table(console, ("verdict", "outcome", "value", "threshold", "reason"), figures)
    _changes(console, "how it got there", one.way)
    _changes(console, "what became of it since", one.later)
    _pairs(console, one.links)
    for note in one.notes:
        console.print(f"[yellow]not told:[/] {escape(note)}", highlight=False)
    console.print()


def _changes(console: Console, title: str, changes: Sequence[Change]) -> None:
    if changes:
        rows = [(f"{c.at:{_TIME}}", _action(c), c.author.who, c.author.why, c.author.evidence or "") for c in changes]
        _table(console, ("UTC", title, "who", "why", "evidence"), rows)


def _action(change: Change) -> str:
    traffic = f" {change.mirror} % copied" if change.mirror else f" {change.weight} %" if change.weight else ""
    return f"{change.action} {change.release} {change.step_name}".strip() + traffic


def _pairs(console: Console, pairs: Mapping[str, str]) -> None:
    grid = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        grid.add_row(escape(name), escape(value))
    console.print(grid)


def _table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


def _text(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
