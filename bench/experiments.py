"""How often experiments are wrong when there is nothing to find, how often their intervals hold the truth, and how early they answer.

``python -m bench.experiments [--runs 10000]`` simulates, prints each rate beside what it may be, writes
``bench/results/experiments.json``, and exits with 1 if one is over. A false positive rate is judged by its upper 99 % bound (Clopper and
Pearson), a coverage by its distance from nominal.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from scipy.stats import beta

from bench.figures import describe_machine
from mlops_assets.core.experiment_bayes import Beta, compare_shares
from mlops_assets.core.experiment_groups import boundaries
from mlops_assets.core.experiment_power import Criteria, size_for_proportions
from mlops_assets.core.experiment_samples import Pair, adjusted, ratio
from mlops_assets.core.experiment_sequential import always_valid_factor, half_width, sequential_srm

RESULT = Path(__file__).parent / "results" / "experiments.json"
ALPHA, FIRST, LAST, CHUNK = 0.05, 100, 4000, 250
LOOKS = (0.2, 0.4, 0.6, 0.8, 1.0)
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


@dataclass(frozen=True)
class Rate:
    """A simulated share; ``limit`` is the most that ``judged`` may be. Without a limit it is told and not judged."""

    name: str
    value: float
    judged: float
    limit: float | None
    note: str

    @property
    def is_over(self) -> bool:
        return self.limit is not None and self.judged > self.limit


def false_positives(name: str, wrong: int, runs: int, limit: float | None = ALPHA) -> Rate:
    return Rate(name, wrong / runs, float(beta.ppf(0.99, wrong + 1, runs - wrong)), limit, "upper 99 % bound")


def coverage(name: str, held: int, runs: int, nominal: float) -> Rate:
    return Rate(name, held / runs, abs(held / runs - nominal), 0.01, f"distance from {nominal:.0%}")


def peeked(rng: np.random.Generator, draw: Draw, runs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Difference of the means and its variance, after each unit of both variants; no variant is better."""
    n = np.arange(1, LAST + 1)
    for _ in range(runs // CHUNK):
        means, errors = [], []
        for _ in range(2):
            values = draw(rng, (CHUNK, LAST))
            mean = np.cumsum(values, axis=1) / n
            means.append(mean)
            errors.append(np.maximum(np.cumsum(values**2, axis=1) / n - mean**2, 0) / n)
        yield (means[1] - means[0])[:, FIRST - 1 :], (errors[0] + errors[1])[:, FIRST - 1 :]


def always_valid(rng: np.random.Generator, runs: int) -> Iterator[Rate]:
    """A look after every unit, by the confidence sequence and by the interval of a single look."""
    draws: dict[str, Draw] = {
        "share of 0.2": lambda rng, shape: (rng.random(shape) < 0.2).astype(float),
        "exponential mean": lambda rng, shape: rng.exponential(1.0, shape),
    }
    share = np.arange(FIRST, LAST + 1) / LAST
    for name, draw in draws.items():
        ours = naive = 0
        for difference, error in peeked(rng, draw, runs):
            ours += int((np.abs(difference) > half_width(error, np.broadcast_to(share, error.shape), ALPHA)).any(axis=1).sum())
            naive += int((np.abs(difference) > 1.959964 * np.sqrt(error)).any(axis=1).sum())
        yield false_positives(f"always-valid, {name}, looked at after every unit", ours, runs)
        yield false_positives(f"one look's interval, {name}, looked at after every unit", naive, runs, limit=None)


def few_looks(rng: np.random.Generator, runs: int) -> Iterator[Rate]:
    """Five looks at shares, by group-sequential boundaries: all five intervals hold the truth together."""
    units, p, q = 4000, 0.10, 0.12
    steps = [units // 5] * 5
    control, treatment = (np.cumsum(rng.binomial(steps, share, (runs, 5)), axis=1) / np.cumsum(steps) for share in (p, q))
    error = (control * (1 - control) + treatment * (1 - treatment)) / np.cumsum(steps)
    for spending in ("obrien-fleming", "pocock"):
        bounds = np.array(boundaries(spending, ALPHA, LOOKS))
        held = (np.abs(treatment - control - (q - p)) <= bounds * np.sqrt(error)).all(axis=1)
        yield coverage(f"group-sequential, {spending}, 5 looks", int(held.sum()), runs, 1 - ALPHA)


def splits(rng: np.random.Generator, runs: int) -> Iterator[Rate]:
    """A sound split, looked at 200 times."""
    total, wrong = 100 * np.arange(1, 201), 0
    for _ in range(runs // 4):
        treated = np.cumsum(rng.binomial(100, 0.5, 200))
        wrong += any(sequential_srm((int(n - t), int(t)), (0.5, 0.5)) < ALPHA for n, t in zip(total, treated, strict=True))
    yield false_positives("sample ratio, looked at 200 times", wrong, runs // 4)


def kinds(rng: np.random.Generator, runs: int) -> Iterator[Rate]:
    """Ratios and adjusted means, in one look."""
    n, by_ratio, by_cuped = 1000, 0, 0
    for _ in range(runs):
        views = 1.0 + rng.poisson(8, n)
        clicks = rng.binomial(views.astype(int), rng.beta(2, 18, n)).astype(float)
        one = ratio(_pair(clicks, views))
        by_ratio += abs(one.mean - 0.1) <= 1.959964 * math.sqrt(one.error)
        before = rng.exponential(3.0, (2, n))
        after = 0.7 * before + rng.normal(0, 2, (2, n)) + np.array([[0.0], [0.3]])
        control, treatment = adjusted(_pair(after[0], before[0]), _pair(after[1], before[1]))
        by_cuped += abs(treatment.mean - control.mean - 0.3) <= 1.959964 * math.sqrt(control.error + treatment.error)
    yield coverage("ratio by the delta method", by_ratio, runs, 0.95)
    yield coverage("difference of adjusted means (CUPED)", by_cuped, runs, 0.95)


def beliefs(rng: np.random.Generator, runs: int) -> Iterator[Rate]:
    """Truths that come from the prior."""
    held = 0
    for control, treatment in rng.random((runs, 2)):
        after = (Beta(1, 1).after(units, int(rng.binomial(units, p))) for units, p in ((50, control), (80, treatment)))
        seen = compare_shares(*after)
        held += seen.lower <= treatment - control <= seen.upper
    yield coverage("credible interval of two shares", held, runs, 0.95)


def earliness(rng: np.random.Generator, runs: int) -> Iterator[Rate]:
    """An effect for which one look is planned with power 0.8: what share of that look's units an answer takes."""
    single = size_for_proportions(0.2, 0.05, Criteria()).control
    planned = math.ceil(single * always_valid_factor(ALPHA, 0.8))
    n = np.arange(1, planned + 1)
    control, treatment = (np.cumsum(rng.random((runs // 5, planned)) < p, axis=1) / n for p in (0.2, 0.25))
    error = (control * (1 - control) + treatment * (1 - treatment)) / n
    over = (treatment - control > half_width(error, np.broadcast_to(n / planned, error.shape), ALPHA))[:, FIRST - 1 :]
    found, when = over.any(axis=1), FIRST + over.argmax(axis=1)
    yield Rate(
        "always-valid: effect found", float(found.mean()), 0.0, None, f"by {planned} units a variant, one look needs {single} for 0.8"
    )
    yield Rate("always-valid: median units", float(np.median(when[found]) / single), 0.0, None, "of those that one look needs")


def _pair(first: np.ndarray, second: np.ndarray) -> Pair:
    seen = np.cov(first, second)
    return Pair(len(first), (float(first.mean()), float(second.mean())), (float(seen[0, 0]), float(seen[1, 1])), float(seen[0, 1]))


def table(rates: list[Rate]) -> str:
    lines = [f"{'simulated':<68}{'rate':>8}{'judged':>9}{'limit':>8}{'ratio':>7}"]
    for rate in rates:
        judged = f"{rate.judged:.4f}" if rate.limit else ""
        limit, share = (f"{rate.limit:.2f}", f"{rate.judged / rate.limit:.2f}") if rate.limit else ("", "")
        lines.append(f"{rate.name:<68}{rate.value:>8.4f}{judged:>9}{limit:>8}{share:>7}  {'OVER  ' if rate.is_over else ''}{rate.note}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    rng = np.random.default_rng(2026)
    rates = [rate for part in (always_valid, few_looks, splits, kinds, beliefs, earliness) for rate in part(rng, runs)]
    result = {
        "runs": runs,
        "measured_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "machine": describe_machine(),
        "rates": [asdict(rate) for rate in rates],
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(table(rates))
    if any(rate.is_over for rate in rates):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
