"""An evaluation as a page of markdown for a person."""

from collections.abc import Sequence

from mlops_assets.core.gates import GateResult
from mlops_assets.core.ledger import Look


def trained_because(trigger: str, cause: str = "") -> str:
    """Why a release was trained, with where a person finds it.

    >>> trained_because("drift", "http://127.0.0.1:4000/assets/a/drift_report")
    'trained because of drift: http://127.0.0.1:4000/assets/a/drift_report'
    """
    return f"trained because of {trigger}" + (f": {cause}" if cause else "")


def certificate(
    model: str,
    challenger: str,
    champion: str | None,
    holdout: str,
    result: GateResult,
    looks: Sequence[Look] = (),
    history: str | None = None,
    origin: str | None = None,
) -> str:
    """What was concluded, from which figures, and what this holdout was asked before; and, if told, what the features of the views add, and
    why the release was trained.
    """
    lines = [
        f"# {model} {challenger}: {result.outcome.value}",
        "",
        f"Judged by policy `{result.policy}` against {champion or 'no champion'} on {result.rows} rows "
        f"of the frozen holdout `{holdout[:16]}`.",
        "",
        "| verdict | outcome | value | threshold | reason |",
        "|---|---|---|---|---|",
    ]
    for verdict in result.verdicts:
        value = "" if verdict.value is None else f"{verdict.value:.4f}"
        threshold = "" if verdict.threshold is None else f"{verdict.threshold:.4f}"
        lines.append(f"| {verdict.name} | {verdict.outcome.value} | {value} | {threshold} | {verdict.reason} |")
    told = [*([f"It was {origin}"] if origin else []), *([f"History: {history}."] if history else [])]
    notes = [*told, *_on_comparison(result), *_on_looks(result, looks)]
    return "\n".join([*lines, *(line for note in notes for line in ("", note))]) + "\n"


def _on_comparison(result: GateResult) -> list[str]:
    notes, seen = [], result.comparison
    if seen is not None:
        kind = "independent rows" if seen.blocks is None else f"{seen.blocks} independent blocks of rows"
        notes.append(
            f"{seen.metric}: challenger {seen.challenger:.4f}, champion {seen.champion:.4f}; standard error of the uplift "
            f"{seen.standard_error:.4f}, of {kind}; {seen.positives} positives, {seen.negatives} negatives."
        )
    if result.false_promotions is not None:
        notes.append(f"**False promotion rate of this rule on rows like these: {result.false_promotions:.1%}** of equal models would pass.")
    if result.power is not None:
        notes.append(f"Power: a release as good as is hoped for would pass on this holdout {result.power:.0%} of the time.")
    if result.needed_positives:
        notes.append(f"About {result.needed_positives} positives in the holdout would decide.")
    return notes


def _on_looks(result: GateResult, looks: Sequence[Look]) -> list[str]:
    turn = result.turn
    if turn is None:
        return []
    this = f"look {turn.number} of at most {turn.max_looks}; it may let a release through that is not good enough with probability"
    notes = [f"This holdout: {this} {turn.alpha:.2g}." if turn.alpha > 0 else f"This holdout is worn out: {turn.looks} looks."]
    if looks:
        table = ["| look | release | against | policy | alpha | outcome |", "|---|---|---|---|---|---|"]
        for look in looks:
            asked = look.question
            table.append(
                f"| {look.number} | {asked.release} | {asked.champion} | {asked.policy} | {look.alpha:.2g} | {look.outcome.value} |"
            )
        notes.append("\n".join(table))
    return notes
