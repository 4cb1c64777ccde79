"""Simulated rollouts, judged by our guardrails and by the rules of Kayenta, Flagger and Argo Rollouts, tuned to the same false alarms.

``python -m bench.canary [--rollouts 10000]`` writes ``bench/results/canary.json``, prints one line a scenario and rule, and exits with 1
if without harm our rule rolls back more often than its alpha, by the upper 99 % bound of the simulation and its deadlines included.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from scipy.stats import beta as beta_distribution

from bench.canary_peers import PEERS, Peer, Series
from bench.canary_rules import BAKE, DEADLINE, LIMITS, STEPS, Ours
from bench.canary_traffic import SCENARIOS, Scenario, Simulated
from bench.figures import describe_machine

RESULT = Path(__file__).parent / "results" / "canary.json"
CONFIDENCE = 0.99


@dataclass(frozen=True)
class Line:
    """What became of the rollouts of one scenario under one rule.

    Args:
        rolled_back: the share that was taken out because harm was found.
        low, high: the 99 % interval of that share (Clopper and Pearson).
        overdue: the share that was taken out at a deadline, neither shown to harm nor not to.
        requests: the median number of the challenger's requests until harm was found; ``None`` if most were never found.
        looks: the median number of looks until then.
        promoted_looks: the median number of looks until promotion.
    """

    scenario: str
    rule: str
    harmful: bool
    rolled_back: float
    low: float
    high: float
    overdue: float
    requests: float | None
    looks: float | None
    promoted_looks: float | None


@dataclass
class Played:
    """When each rollout was taken out for harm: the look (0 if never) and the requests by then."""

    look: np.ndarray
    requests: np.ndarray
    overdue: np.ndarray
    promoted: np.ndarray = field(default_factory=lambda: np.empty(0))


def play(scenario: Scenario, rollouts: int, seed: int) -> tuple[Played, Series]:
    """Look at every batch of every rollout by our rule; and what the peers would have measured during the same bakes."""
    rng = np.random.default_rng(seed)
    look, requests = np.zeros(rollouts, int), np.zeros(rollouts)
    overdue, promoted = np.zeros(rollouts, bool), np.zeros(rollouts, int)
    served, clock = np.zeros(rollouts), np.zeros(rollouts, int)
    series = Series(rollouts, len(STEPS) * BAKE)
    traffic = Simulated(scenario, rollouts, rng)
    for number, step in enumerate(STEPS):
        ours, here = (
            Ours(step, rollouts, LIMITS[scenario.requests], scenario.unit_requests if scenario.aware else 1),
            (look == 0) & ~overdue,
        )
        for batch in range(DEADLINE):
            baking = batch < BAKE
            rows = np.arange(rollouts) if baking else np.flatnonzero(here)
            if not rows.size:
                break
            counts = traffic.batch(step, rows, batch, number)
            if baking:
                series.add(number * BAKE + batch, counts)
            served[rows[here[rows]]] += counts.theirs[here[rows]]
            clock[here] += 1
            chosen = here[rows]
            rows = rows[chosen]
            ours.add(rows, counts.of(chosen))
            harm, safe = ours.judge(rows)
            look[rows[harm]], requests[rows[harm]] = clock[rows[harm]], served[rows[harm]]
            here[rows[harm]] = False
            if batch + 1 >= BAKE:
                here[rows[safe & ~harm]] = False
        overdue |= here
    promoted = np.where((look == 0) & ~overdue, clock, 0)
    return Played(look, requests, overdue, promoted), series


def line(scenario: Scenario, rule: str, played: Played) -> Line:
    found, total = played.look > 0, played.look.size
    low, high = interval(int(found.sum()), total)
    requests, looks = (float(np.median(np.where(found, of, np.inf))) for of in (played.requests, played.look))
    ended = played.promoted[played.promoted > 0] if played.promoted.size else played.promoted
    return Line(
        scenario.name,
        rule,
        scenario.harmful,
        float(found.mean()),
        low,
        high,
        float(played.overdue.mean()),
        requests if np.isfinite(requests) else None,
        looks if np.isfinite(looks) else None,
        float(np.median(ended)) if ended.size else None,
    )


def interval(found: int, total: int) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share; each bound errs once in a hundred times.

    Source: Clopper and Pearson, *Biometrika* 26, 1934.
    """
    low = float(beta_distribution.ppf(1 - CONFIDENCE, found, total - found + 1)) if found else 0.0
    high = float(beta_distribution.ppf(CONFIDENCE, found + 1, total - found)) if found < total else 1.0
    return low, high


def by_peer(peer: Peer, series: Series, limits: np.ndarray) -> Played:
    look = peer.first(series, limits)
    requests = np.where(look > 0, np.take_along_axis(series.served(), np.maximum(look - 1, 0)[:, None], 1)[:, 0], 0)
    return Played(look, requests, np.zeros(look.size, bool))


def measure(rollouts: int, only: str | None) -> list[Line]:
    """All scenarios. The first of each level of traffic has no harm: its false alarms are what the peers are tuned to."""
    lines: list[Line] = []
    limits: dict[int, Mapping[str, np.ndarray]] = {}
    first = {next(s for s in SCENARIOS if s.requests == requests) for requests in LIMITS}
    for number, scenario in enumerate(s for s in SCENARIOS if only is None or only in s.name or s in first):
        began = time.perf_counter()
        played, series = play(scenario, rollouts, number)
        lines.append(line(scenario, "ours" if scenario.aware else "unaware", played))
        if scenario.requests not in limits:
            rate = max(lines[-1].rolled_back, 1 / rollouts)
            limits[scenario.requests] = {peer.name: peer.tune(series, rate) for peer in PEERS}
        lines += [line(scenario, peer.name, by_peer(peer, series, limits[scenario.requests][peer.name])) for peer in PEERS]
        print(table(lines[-1 - len(PEERS) :], header=number == 0), flush=True)
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    return lines


def table(lines: Sequence[Line], header: bool) -> str:
    told = (
        [f"{'scenario':<26}{'rule':<12}{'rolled back':>12}{'99 %':>16}{'overdue':>9}{'requests':>11}{'looks':>7}{'promoted':>10}"]
        if header
        else []
    )
    for one in lines:
        spread = f"{one.low:.4f}-{one.high:.4f}"
        requests = f"{one.requests:,.0f}" if one.requests is not None else "-"
        looks = f"{one.looks:.0f}" if one.looks is not None else "-"
        promoted = f"{one.promoted_looks:.0f}" if one.promoted_looks is not None else "-"
        told.append(
            f"{one.scenario:<26}{one.rule:<12}{one.rolled_back:>12.4f}{spread:>16}{one.overdue:>9.4f}{requests:>11}{looks:>7}{promoted:>10}"
        )
    return "\n".join(told)


def verdicts(lines: Sequence[Line]) -> list[str]:
    """What does not hold: false rollbacks above alpha, and harm that a peer found earlier or more often."""
    told, alpha = [], next(iter(LIMITS.values())).alpha
    for one in (one for one in lines if one.rule == "ours" and not one.harmful and one.high + one.overdue > alpha):
        told.append(f"BROKEN {one.scenario}: false rollbacks up to {one.high + one.overdue:.4f}, alpha is {alpha}")
    for ours in (one for one in lines if one.rule == "ours" and one.harmful):
        for peer in (one for one in lines if one.scenario == ours.scenario and one.rule != "ours"):
            if (peer.looks or np.inf) < (ours.looks or np.inf) or (ours.looks is None and peer.rolled_back > ours.rolled_back):
                told.append(
                    f"peer wins {ours.scenario}: {peer.rule} found {peer.rolled_back:.1%}, median {peer.looks} looks; ours {ours.looks}"
                )
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=10_000)
    parser.add_argument("--only", help="a part of a scenario's name")
    arguments = parser.parse_args()
    before, began = describe_machine(), time.perf_counter()
    lines = measure(arguments.rollouts, arguments.only)
    told = verdicts(lines)
    result = {
        "rollouts": arguments.rollouts,
        "measured_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "seconds": round(time.perf_counter() - began),
        "machine": before,
        "guardrails": {requests: asdict(limits) for requests, limits in LIMITS.items()},
        "lines": [asdict(one) for one in lines],
        "verdicts": told,
    }
    if arguments.only is None:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(told))
    if any(text.startswith("BROKEN") for text in told):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
