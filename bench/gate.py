"""How often a gate is wrong: false promotions of each policy, the coverage of each interval, a holdout that is asked often, and time.

``python -m bench.gate [--quick]`` writes ``bench/results/gate.json``, prints each figure beside the range that it must lie in, and exits
with 1 if one does not. Everything is simulated from fixed seeds; theory is never computed by the code that it judges.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one core, as in a run

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

import numpy as np
from scipy import stats
from sklearn.metrics import average_precision_score

from bench.figures import describe_machine
from mlops_assets.core.bootstrap import bootstrap
from mlops_assets.core.comparison import Comparison, delong, estimated_auc, paired
from mlops_assets.core.floors import holm
from mlops_assets.core.gate_spec import GatePolicy, Gates, MetricName
from mlops_assets.core.gates import Scored, compare, evaluate
from mlops_assets.core.ledger import Look, Question, turn

RESULT = Path(__file__).parent / "results" / "gate.json"
AUC, CORRELATION, UPLIFT = 0.80, 0.9, 0.005
Z99 = 2.576
DRAWS = 399
METRICS: tuple[MetricName, ...] = ("auc", "average_precision", "log_loss", "brier", "ece", "cost")
Pair = tuple[np.ndarray, np.ndarray, np.ndarray]
Sample = tuple[Pair, np.ndarray | None]


@dataclass(frozen=True)
class Figure:
    """A measured value beside the range it must lie in; without one it is told and not judged."""

    name: str
    value: float
    low: float = -math.inf
    high: float = math.inf
    note: str = ""

    @property
    def is_off(self) -> bool:
        return not self.low <= self.value <= self.high

    @property
    def ratio(self) -> float | None:
        """Of the value to its upper limit."""
        return self.value / self.high if math.isfinite(self.high) else None


# False promotions


def exponential(base: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Scores of the model behind Hanley and McNeil's formula: positives last longer, by a factor that makes the AUC."""
    return -np.log(stats.norm.sf(base)) * np.where(label == 1, AUC / (1 - AUC), 1.0)


def binormal(base: np.ndarray, label: np.ndarray) -> np.ndarray:
    return base + label * math.sqrt(2) * stats.norm.ppf(AUC)


def variance(shape: Callable[..., np.ndarray], positives: int, negatives: int) -> float:
    """Of one estimated AUC: Hanley and McNeil, *Radiology* 143, 1982, with the pair probabilities of each score distribution."""
    if shape is exponential:
        two_positives, two_negatives = AUC / (2 - AUC), 2 * AUC**2 / (1 + AUC)
    else:
        z = stats.norm.ppf(AUC)
        two_positives = two_negatives = float(stats.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]]).cdf([z, z]))
    of_pairs = (positives - 1) * (two_positives - AUC**2) + (negatives - 1) * (two_negatives - AUC**2)
    return (AUC * (1 - AUC) + of_pairs) / (positives * negatives)


@cache
def score_correlation(shape: Callable[..., np.ndarray], positives: int, negatives: int) -> float:
    """Which correlation of the underlying normals makes the two estimated AUCs correlate by 0.9: by bisection on a large sample."""
    generator, size = np.random.default_rng(11), 40_000
    label, base = np.repeat([1, 0], size), generator.normal(size=(2, 2 * size))
    low, high = 0.5, 0.999
    for _ in range(14):
        middle = (low + high) / 2
        scores = [shape(base[0], label), shape(middle * base[0] + math.sqrt(1 - middle**2) * base[1], label)]
        low, high = (middle, high) if _auc_correlation(label, scores, positives, negatives) < CORRELATION else (low, middle)
    return (low + high) / 2


def _auc_correlation(label: np.ndarray, scores: Sequence[np.ndarray], positives: int, negatives: int) -> float:
    """Of the AUC estimates on so many rows, by the ranks of a large sample; scipy's, not ours."""
    shares = []
    for score in scores:
        mine, theirs = score[label == 1], score[label == 0]
        both = stats.rankdata(score)
        shares.append((both[label == 1] - stats.rankdata(mine), both[label == 0] - stats.rankdata(theirs)))
    cov = sum(np.cov(shares[0][side], shares[1][side]) / count for side, count in ((0, positives), (1, negatives)))
    return float(cov[0, 1] / math.sqrt(cov[0, 0] * cov[1, 1]))


def equal_models(shape: Callable[..., np.ndarray], positives: int, negatives: int, pairs: int, seed: int) -> Iterator[Pair]:
    """Labels and the scores of two models of the same true AUC."""
    generator, rho = np.random.default_rng(seed), score_correlation(shape, positives, negatives)
    label = np.repeat([1, 0], [positives, negatives])
    for _ in range(pairs):
        base = generator.normal(size=(2, len(label)))
        yield label, shape(base[0], label), shape(rho * base[0] + math.sqrt(1 - rho**2) * base[1], label)


def promoted(policy: GatePolicy, gates: Gates, pairs: Iterator[Pair]) -> np.ndarray:
    """Which challengers pass."""
    return np.array([evaluate(gates, policy, Scored(*pair), 50).outcome == "pass" for pair in pairs])


def false_promotions(pairs: int) -> Iterator[Figure]:
    for positives, negatives in ((1000, 1000), (100, 9900)):
        for shape in (exponential, binormal):
            where = f"{shape.__name__} {positives}/{negatives}"
            error = math.sqrt(2 * (1 - CORRELATION) * variance(shape, positives, negatives))
            theory = float(stats.norm.sf(UPLIFT / error))
            noise = Z99 * math.sqrt(theory * (1 - theory) / pairs)
            wins = promoted("observed", Gates(floor=0.5, min_uplift=UPLIFT), equal_models(shape, positives, negatives, pairs, 1))
            yield Figure(f"observed, {where}", float(wins.mean()), theory - noise, theory + noise, f"theory {theory:.3f}")
        for border in (UPLIFT, 0.0):
            gates = Gates(floor=0.5, min_uplift=border)
            count = 3 * pairs if positives == negatives else pairs
            wins = promoted("improve", gates, equal_models(binormal, positives, negatives, count, 2))
            limit = gates.alpha + Z99 * math.sqrt(gates.alpha * gates.confidence / count)
            yield Figure(f"improve by {border}, {positives}/{negatives}", float(wins.mean()), 0, limit, f"alpha {gates.alpha:.2f}")


# One holdout, many challengers


def worn_holdouts(holdouts: int) -> Iterator[Figure]:
    """Ten challengers, all as good as the champion, on each holdout: how often any is promoted."""
    gates, generator = Gates(floor=0.5, min_uplift=0.0, max_looks=10), np.random.default_rng(5)
    label = np.repeat([1, 0], [200, 400])
    with_ledger = without = 0
    for _ in range(holdouts):
        champion = generator.normal(size=len(label)) + label
        challengers = 0.8 * (champion - label) + 0.6 * generator.normal(size=(10, len(label))) + label
        looks: list[Look] = []
        passed: tuple[list[bool], list[bool]] = ([], [])
        for number, challenger in enumerate(challengers):
            scored, ask = Scored(label, challenger, champion), Question(f"v{number}", "v0", "improve", "auc", 0.0)
            mine = turn(looks, ask, gates)
            result = evaluate(gates, "improve", scored, 50, mine)
            looks.append(Look(mine.number, ask, mine.alpha, result.outcome))
            passed[0].append(result.outcome == "pass")
            passed[1].append(compare(gates, scored, champion, gates.alpha).lower >= 0)
        with_ledger += any(passed[0])
        without += any(passed[1])
    limit = gates.alpha + Z99 * math.sqrt(gates.alpha * gates.confidence / holdouts)
    yield Figure("any of 10 equal challengers, ledger", with_ledger / holdouts, 0, limit, f"alpha {gates.alpha:.2f}")
    yield Figure("any of 10 equal challengers, none", without / holdouts, note="each at alpha, as without a ledger")


def slices(times: int) -> Iterator[Figure]:
    """Six slices that are all exactly at their floor: how often Holm fails any."""
    generator, wrong, alpha = np.random.default_rng(6), 0, 0.05
    label = np.repeat([1, 0], [60, 200])
    for _ in range(times):
        p = [estimated_auc(label, binormal(generator.normal(size=len(label)), label)).probability_below(AUC) for _ in range(6)]
        wrong += any(holm(p, alpha))
    limit = alpha + Z99 * math.sqrt(alpha * (1 - alpha) / times)
    yield Figure("any of 6 slices at their floor fails", wrong / times, 0, limit, f"alpha {alpha:.2f}")


# Coverage


def independent_rows(generator: np.random.Generator, positives: int, negatives: int) -> Sample:
    """A challenger that is a little too sure of itself, a champion that is worse and not sure enough; their errors correlate."""
    label, noise = np.repeat([1, 0], [positives, negatives]), generator.normal(size=(2, positives + negatives))
    ours, theirs = 1.3 * label + noise[0], 0.9 * label + 0.8 * noise[0] + 0.6 * noise[1]
    base = math.log(positives / negatives)
    return (label, _probability(1.6 * (1.3 * ours - 0.845) + base + 0.4), _probability(0.5 * (0.9 * theirs - 0.405) + base - 0.7)), None


def dependent_rows(generator: np.random.Generator, days: int, rows: int) -> Sample:
    """Days with a prevalence of their own, on each of which each model is off in its own way."""
    day, effects = np.repeat(np.arange(days), rows), generator.normal(size=(3, days))
    shared, noise = effects[:, day], generator.normal(size=(2, days * rows))
    label = (generator.random(days * rows) < _probability(0.8 * shared[0] - 0.6)).astype(int)
    ours, theirs = 1.3 * label + noise[0] + 0.3 * shared[1], 0.9 * label + 0.8 * noise[0] + 0.6 * noise[1] + 0.3 * shared[2]
    return (label, _probability(1.6 * ours - 1.9), _probability(0.5 * theirs - 1.4)), day


def _probability(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def interval(metric: MetricName, scores: Pair, blocks: np.ndarray | None, seed: int) -> Comparison:
    """As the gate makes it, with fewer draws."""
    if blocks is None and metric not in ("auc", "ece"):
        return bootstrap(paired(metric, *scores, 0.4), 0.95, DRAWS, seed)
    gates = Gates(floor=0.5, metric=metric, blocks="none" if blocks is None else "day")
    return compare(gates, Scored(*scores, blocks=blocks, threshold=0.4), scores[2], 0.025)


def row_bootstrap(metric: MetricName, scores: Pair, _blocks: np.ndarray | None, seed: int) -> Comparison:
    """The other choice where the gate takes no bootstrap; on days, as if rows were independent."""
    return bootstrap(paired(metric, *scores, 0.4), 0.95, DRAWS, seed)


def block_percentiles(metric: MetricName, scores: Pair, blocks: np.ndarray | None, seed: int) -> Comparison:
    """The usual block bootstrap: percentiles of samples of whole days."""
    assert blocks is not None
    pair = paired(metric, *scores, 0.4)
    days = int(blocks.max()) + 1
    weights = np.random.default_rng(seed).multinomial(days, np.full(days, 1 / days), DRAWS)[:, blocks].astype(float)
    low, high = np.quantile(pair.under(weights), [0.025, 0.975], method="weibull")
    return replace(interval(metric, scores, blocks, seed), lower=float(low), upper=float(high))


def coverage(times: int) -> Iterator[Figure]:
    """Of each interval the share that holds the true uplift, which a sample of millions has."""
    generator = np.random.default_rng(3)
    for positives, negatives, metrics in ((400, 800, METRICS), (1000, 1000, ("auc", "ece"))):
        truth = _truth(independent_rows(generator, 2500 * positives, 2500 * negatives))
        draw = partial(independent_rows, generator, positives, negatives)
        yield from _covered(interval, metrics, truth, draw, times, f"{positives}/{negatives} rows")
    yield from _covered(row_bootstrap, ("auc",), truth, draw, times // 4, "1000/1000, bootstrap", slack=0.02)
    yield from _covered(row_bootstrap, ("ece",), truth, draw, times // 4, "1000/1000, bootstrap (unused)", slack=1)
    for days, rows in ((40, 25), (20, 60)):
        truth = _truth(dependent_rows(generator, 2_000_000 // rows, rows))
        draw = partial(dependent_rows, generator, days, rows)
        yield from _covered(interval, METRICS, truth, draw, times, f"{days} days of {rows}")
        yield from _covered(block_percentiles, ("auc", "brier"), truth, draw, times // 4, f"{days} days, percentiles (unused)", slack=1)
    yield from _covered(row_bootstrap, ("brier",), truth, draw, times // 4, "20 days, as if rows were independent", slack=1)


def _truth(sample: Sample) -> dict[MetricName, float]:
    return {metric: paired(metric, *sample[0], 0.4).uplift for metric in METRICS}


def _covered(
    method: Callable[[MetricName, Pair, np.ndarray | None, int], Comparison],
    metrics: Sequence[MetricName],
    truth: dict[MetricName, float],
    draw: Callable[[], Sample],
    times: int,
    where: str,
    slack: float = 0.01,
) -> Iterator[Figure]:
    misses = {metric: np.zeros(2) for metric in metrics}
    for seed in range(times):
        scores, blocks = draw()
        for metric in metrics:
            got = method(metric, scores, blocks, seed)
            misses[metric] += [got.lower > truth[metric], got.upper < truth[metric]]
    for metric, (above, below) in misses.items():
        tails = f"misses {above / times:.3f} above, {below / times:.3f} below the true {truth[metric]:+.4f}, of {times}"
        low, high = (0.95 - slack, 0.95 + slack) if slack < 1 else (-math.inf, math.inf)
        yield Figure(f"{metric}, {where}", 1 - (above + below) / times, low, high, tails)


# Time


def speed() -> Iterator[Figure]:
    generator = np.random.default_rng(9)
    label = (generator.random(1_000_000) < 0.3).astype(int)
    champion = generator.normal(size=len(label)) + label
    challenger = champion + generator.normal(size=len(label))
    yield Figure("DeLong, 1M rows, s", _seconds(lambda: delong(label, challenger, champion)), high=2.0)
    few = slice(0, 10_000)
    scores = label[few], _probability(challenger[few]), _probability(champion[few])
    for metric in METRICS[1:4]:
        ours = _seconds(lambda metric=metric: bootstrap(paired(metric, *scores), draws=2000)) / 2  # type: ignore[misc]
        yield Figure(f"bootstrap {metric}, ms a draw", ours, note="10,000 rows, 2,000 draws")
    yield Figure("scipy.stats.bootstrap brier, ms a draw", _seconds(lambda: _scipy_brier(*scores)) / 2, note="vectorized, percentiles")
    peer = _seconds(lambda: _scipy_precision(*scores)) / 0.1
    yield Figure("scipy.stats.bootstrap average_precision, ms a draw", peer, note="scikit-learn's, 100 draws")


def _seconds(work: Callable[[], object]) -> float:
    """CPU time: on a busy machine what an idle one would have shown."""
    started = time.process_time()
    work()
    return time.process_time() - started


def _scipy_brier(label: np.ndarray, challenger: np.ndarray, champion: np.ndarray) -> object:
    gain = (champion - label) ** 2 - (challenger - label) ** 2
    return stats.bootstrap((gain,), np.mean, n_resamples=2000, method="percentile", batch=200, rng=0)


def _scipy_precision(label: np.ndarray, challenger: np.ndarray, champion: np.ndarray) -> object:
    def uplift(y: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> float:
        return float(average_precision_score(y, ours) - average_precision_score(y, theirs))

    data = (label, challenger, champion)
    return stats.bootstrap(data, uplift, paired=True, vectorized=False, n_resamples=100, method="percentile", rng=0)


def table(figures: Sequence[Figure]) -> str:
    lines = [f"{'figure':<56}{'value':>9}{'from':>9}{'to':>9}{'ratio':>7}"]
    for figure in figures:
        low, high = (f"{limit:.4f}" if math.isfinite(limit) else "" for limit in (figure.low, figure.high))
        ratio = f"{figure.ratio:.2f}" if figure.ratio is not None else ""
        lines.append(f"{figure.name:<56}{figure.value:>9.4f}{low:>9}{high:>9}{ratio:>7}  {'OFF  ' if figure.is_off else ''}{figure.note}")
    return "\n".join(lines)


PARTS: dict[str, Callable[[int], Iterator[Figure]]] = {
    "promotions": lambda share: false_promotions(4000 // share),
    "looks": lambda share: worn_holdouts(2000 // share),
    "slices": lambda share: slices(2000 // share),
    "coverage": lambda share: coverage(4000 // share),
    "speed": lambda share: speed(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the simulations; nothing is judged or kept")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; the others are kept as they were measured")
    arguments = parser.parse_args()
    measured = {name: measure(name, 10 if arguments.quick else 1) for name in arguments.part or PARTS}
    if arguments.quick:
        return
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({name: part for name in PARTS if (part := (before | measured).get(name))}, indent=2) + "\n")
    if any(figure["is_off"] for part in measured.values() for figure in part["figures"]):  # type: ignore[attr-defined]
        raise SystemExit(1)


def measure(name: str, share: int) -> dict[str, object]:
    """Run one part, print its table, and describe where and when it was run."""
    machine, wall, cpu = describe_machine(), time.perf_counter(), time.process_time()
    figures = list(PARTS[name](share))
    seconds = {"seconds": round(time.perf_counter() - wall), "cpu_seconds": round(time.process_time() - cpu)}
    print(f"{name}: {seconds['seconds']} s\n{table(figures)}\n", flush=True)
    when = {"measured_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
    return when | seconds | {"machine": machine, "figures": [_as_json(figure) for figure in figures]}


def _as_json(figure: Figure) -> dict[str, object]:
    ranged = {name: value if math.isfinite(value) else None for name, value in (("low", figure.low), ("high", figure.high))}
    return asdict(figure) | ranged | {"ratio": figure.ratio, "is_off": figure.is_off}


if __name__ == "__main__":
    main()
