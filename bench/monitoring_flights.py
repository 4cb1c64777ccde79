"""Real flights after a baseline of 1 January to 15 February 2013: alarms, unit errors, and expected performance beside the true one."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from bench.drift_alarms import Case, alarms
from bench.figures import Figure
from mlops_assets.assets.baseline import SCORE
from mlops_assets.assets.drift import rank
from mlops_assets.assets.reading import matrix_of
from mlops_assets.assets.training import fit
from mlops_assets.components.attributes import ModelAttributes, build
from mlops_assets.core.baseline import Baseline, importance
from mlops_assets.core.calibration import cut
from mlops_assets.core.drift import judge, unseen
from mlops_assets.core.margins import Margins, first_margins
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.monitoring_spec import Drift
from mlops_assets.core.outcomes import Figure as Performed
from mlops_assets.core.outcomes import Outcomes, figures
from mlops_assets.core.performance import Calibration, calibrate
from mlops_assets.core.profile import Profile, baseline, merge_all, profile
from mlops_assets.core.verdict import Outcome

START, TRAINED, END = (np.datetime64(day, "us") for day in ("2013-01-01", "2013-02-15", "2013-08-01"))
HOUR, DAY = np.timedelta64(1, "h"), np.timedelta64(1, "D")
HOLDOUT_DAYS = 10
WINDOW = timedelta(days=28)
ALPHA = 0.05
RUNS = 400


@dataclass(frozen=True, eq=False)
class Flights:
    """Every flight of seven months as a model saw it that was trained on the first six weeks.

    Args:
        matrix: features and score, shape (flights, features + 1).
        times: when each was asked about, ascending.
        late: 0 or 1, NaN where it never came true (cancelled).
    """

    spec: ModelSpec
    matrix: np.ndarray
    times: np.ndarray
    late: np.ndarray
    known: Baseline

    def between(self, start: np.datetime64, end: np.datetime64) -> slice:
        return slice(*np.searchsorted(self.times, [start, end]))


def flights() -> Flights:
    """Features as of each flight, by the model's own views; the model is trained on the baseline less its last ten days."""
    from mlops_assets.defs import flight_delay
    from mlops_assets.defs.flight_delay import landing
    from mlops_assets.demo.traffic import Caller

    attributes = yaml.safe_load((Path(flight_delay.__path__[0]) / "defs.yaml").read_text())["attributes"]
    spec = build(ModelSpec, ModelAttributes.model_validate(attributes))
    first, last = date(2013, 1, 1), date(2013, 8, 1)
    rows = Caller(spec, first, last).rows(first, last)
    labels = pd.concat([landing.labels(first + timedelta(days=n)) for n in range((last - first).days)])
    rows = rows.merge(labels[["flight_id", "late"]], on="flight_id", how="left").sort_values("event_timestamp", ignore_index=True)
    times, late = rows["event_timestamp"].dt.tz_localize(None).to_numpy().astype("datetime64[us]"), rows["late"].to_numpy(float)
    inputs = matrix_of(spec, rows)
    seen, holdout = times < TRAINED - HOLDOUT_DAYS * DAY, (times >= TRAINED - HOLDOUT_DAYS * DAY) & (times < TRAINED) & np.isfinite(late)
    estimator = fit(spec, rows[seen & np.isfinite(late)], spec.training.hyperparameters)
    score = lambda m: estimator.predict_proba(pd.DataFrame(m, columns=list(spec.features.names)))[:, 1].astype(np.float32)  # noqa: E731
    matrix = np.column_stack([inputs, score(inputs)])
    before = matrix[times < TRAINED]
    base = baseline([*spec.features.names, SCORE], before)
    matters = importance(spec.features.names, score, inputs[holdout])
    known = calibrate(matrix[holdout, -1].astype(float), late[holdout].astype(int))
    days = [np.flatnonzero(holdout & (times.astype("datetime64[D]") == day)) for day in np.unique(times[holdout].astype("datetime64[D]"))]
    stray = first_margins([as_expected(spec, matrix, late, known, day) for day in days])
    made = Baseline(base, cut(base, before, times[times < TRAINED], WINDOW), matters, known, margins=stray)
    return Flights(spec, matrix, times, late, made)


def measure() -> list[Figure]:
    data = flights()
    return [*measure_alarms(data), *measure_unit_errors(data), *measure_expectations(data), *measure_stated_rate()]


def measure_alarms(data: Flights) -> list[Figure]:
    """A report each day over the stored hours of the last 28 days since the baseline's end, for all features."""
    drift = Drift(window=WINDOW, policy="calibrated", alpha=ALPHA, min_rows=200)
    hourly = {hour: profile(data.known.profile, data.matrix[data.between(hour, hour + HOUR)]) for hour in np.arange(TRAINED, END, HOUR)}
    reports: dict[str, list[tuple[str, ...]]] = {}
    for end in np.arange(TRAINED + DAY, END + DAY, DAY):
        start = max(TRAINED, end - np.timedelta64(WINDOW))
        verdicts = judge(data.known, merged(hourly, start, end), drift, timedelta(days=int((end - start) / DAY)), data.spec.features.names)
        month = "the two weeks after" if end <= np.datetime64("2013-03-01") else str(pd.Timestamp(end - HOUR).month_name())
        reports.setdefault(month, []).append(tuple(v.name for v in verdicts if v.outcome is Outcome.FAIL))
    quiet, found = reports.pop("the two weeks after"), []
    found.append(Figure("reports that alarm, two weeks after", share(quiet), "", ALPHA, note=f"of {len(quiet)} daily reports"))
    for month, of in reports.items():
        named = sorted({name for drifted in of for name in drifted}, key=lambda name: -sum(name in drifted for drifted in of))
        found.append(Figure(f"reports that alarm, {month}", share(of), "", note=f"of {len(of)}; {', '.join(named[:4])}"))
    months = [Figure("months from March to July that alarm", sum(any(of) for of in reports.values()), "", float(len(reports)), True)]
    return [*found, *months]


def share(reports: list[tuple[str, ...]]) -> float:
    return sum(bool(drifted) for drifted in reports) / len(reports)


def merged(hourly: dict[np.datetime64, Profile], start: np.datetime64, end: np.datetime64) -> Profile:
    return merge_all([hourly[hour] for hour in np.arange(start, end, HOUR)])


UNIT_ERRORS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "Fahrenheit to Celsius": ("temperature", lambda values: (values - 32) / 1.8),
    "per cent to a share": ("humidity", lambda values: values / 100),
    "miles to km": ("visibility", lambda values: values * 1.609),
    "minutes to hours": ("block_minutes", lambda values: values / 60),
    "miles to metres": ("distance", lambda values: values * 1609),
    "mph to km/h": ("wind_speed", lambda values: values * 1.609),
    "miles to km (distance)": ("distance", lambda values: values * 1.609),
}
"""What an upstream change may do to one feature."""


EVERY = 3
"""Unit errors are tried on every third of these hours."""


def measure_unit_errors(data: Flights) -> list[Figure]:
    """Hours of the two weeks after with 20 flights or more, as they were and with each error: is the feature found in it, and first?"""
    watched = [name for name in data.spec.features.names if name not in data.spec.drift.ignore]
    places = {name: place for place, name in enumerate(data.spec.features.names)}
    parts = [data.matrix[data.between(hour, hour + HOUR)] for hour in np.arange(TRAINED, np.datetime64("2013-03-01", "us"), HOUR)]
    parts = [part for part in parts if len(part) >= 20]
    base = data.known.profile
    alone = sum(any(v.outcome is Outcome.FAIL for v in unseen(base, profile(base, part), watched)) for part in parts)
    rows = int(np.median([len(part) for part in parts]))
    found = [Figure("hours without an error that alarm", alone / len(parts), "", 0.02, note=f"{alone} of {len(parts)}, of {rows} flights")]
    some = parts[::EVERY]
    for error, (name, change) in UNIT_ERRORS.items():
        seen = 0
        for part in some:
            wrong = part.copy()
            wrong[:, places[name]] = change(part[:, places[name]])
            hour = profile(base, wrong)
            strange = [v.name for v in unseen(base, hour, watched) if v.outcome is Outcome.FAIL]
            if name in strange:
                verdicts = judge(data.known, hour, data.spec.drift, timedelta(hours=1), watched)
                seen += rank(data.known, hour, verdicts, strange)[0].verdict.name == name
        least = 0.9 if error in MUST_BE_FOUND else None
        note = f"of {len(some)} hours it is found in, and named first"
        found.append(Figure(f"{name}, {error}", seen / len(some), "", least, True, note=note))
    return found


MUST_BE_FOUND = ("Fahrenheit to Celsius", "per cent to a share", "minutes to hours")


WEEK, LATER = 7 * DAY, 2 * DAY
"""The window of a performance report, and how much later its labels are there."""


def measure_expectations(data: Flights) -> list[Figure]:
    """Each day the labelled flights of a week: whether the interval of what was expected held what came true.

    The margin of a window has learnt from those alone whose labels were there when the window was over.
    """
    alone: dict[str, list[bool]] = {}
    held: dict[str, list[bool]] = {}
    wide: dict[str, list[float]] = {}
    margins, waiting = Margins().over(data.known.margins), deque[tuple[np.datetime64, tuple[Performed, ...]]]()
    for end in np.arange(TRAINED + WEEK, END + DAY, DAY):
        while waiting and waiting[0][0] + LATER <= end:
            over, then = waiting.popleft()
            margins = margins.after(then, pd.Timestamp(over).to_pydatetime())
        found = as_expected(data.spec, data.matrix, data.late, data.known.calibration, data.between(end - WEEK, end))
        waiting.append((end, found))
        for plain, figure in zip(found, margins.widened(found), strict=True):
            if plain.is_covered is not None and figure.is_covered is not None and figure.expected is not None:
                alone.setdefault(plain.metric, []).append(plain.is_covered)
                held.setdefault(figure.metric, []).append(figure.is_covered)
                wide.setdefault(figure.metric, []).append((figure.expected.upper - figure.expected.lower) / 2)
    weeks = (END - TRAINED) / WEEK
    least = 0.95 - 2 * (0.05 * 0.95 / weeks) ** 0.5
    return [
        Figure(
            f"{metric} as expected, windows of a week",
            float(np.mean(of)),
            "",
            least,
            True,
            note=f"of {len(of)}, {weeks:.0f} apart; +/- {np.median(wide[metric]):.3f}; {np.mean(alone[metric]):.2f} without the margin",
        )
        for metric, of in held.items()
    ]


def as_expected(
    spec: ModelSpec, matrix: np.ndarray, late: np.ndarray, known: Calibration | None, rows: slice | np.ndarray
) -> tuple[Performed, ...]:
    """The figures of some flights that have a label."""
    label, score, threshold = late[rows], matrix[rows, -1].astype(float), spec.label.decision_threshold
    kept = np.isfinite(label)
    return figures(Outcomes(score[kept], label[kept].astype(int), score[kept] >= threshold), known, threshold)


def measure_stated_rate() -> list[Figure]:
    """Windows longer than a sixth of the baseline, of weather that does not drift."""
    cases = [Case(f"AR(0.95), {days} days against 45", days * 24 * 20, 45, True) for days in (14, 28)]
    limit = ALPHA + 2.6 * (ALPHA * (1 - ALPHA) / RUNS) ** 0.5
    return [Figure(case.name, alarms(case, RUNS)["calibrated"], "", limit, note=f"of {RUNS} reports without drift alarm") for case in cases]
