"""The looks at one holdout. Each challenger that is compared on it learns something of it, so each must show more than the one before."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mlops_assets.core.gate_spec import GatePolicy, Gates, MetricName
from mlops_assets.core.verdict import Outcome


@dataclass(frozen=True)
class Question:
    """What a look asks: the same question again is the same look."""

    release: str
    champion: str
    policy: GatePolicy
    metric: MetricName
    border: float


@dataclass(frozen=True)
class Look:
    """One comparison on a holdout.

    Args:
        number: from 1.
        question: what was asked.
        alpha: how often a release that is not good enough would have passed; what this look has spent.
        outcome: what was answered.
    """

    number: int
    question: Question
    alpha: float
    outcome: Outcome

    def to_dict(self) -> dict[str, object]:
        return asdict(self) | {"outcome": self.outcome.value}

    @classmethod
    def from_dict(cls, document: dict[str, object]) -> "Look":
        return cls(**(document | {"question": Question(**document["question"]), "outcome": Outcome(document["outcome"])}))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Turn:
    """What the next question may spend. ``alpha`` is 0 when the holdout is worn out; ``earlier`` is the answer it was given before."""

    number: int
    alpha: float
    looks: int
    max_looks: int
    earlier: Look | None = None


def turn(looks: Sequence[Look], question: Question, gates: Gates) -> Turn:
    """The look that a question takes at a holdout that has had ``looks``.

    The k-th of at most K looks may err with probability alpha / k^2, over the sum of 1 / k^2 to K: the first has the most, and all
    together err with probability alpha at most (Bonferroni), however the later challengers were chosen. A question that was asked
    before has the alpha that it had.

    >>> from mlops_assets.core.gate_spec import Gates
    >>> gates = Gates(floor=0.6, confidence=0.95, max_looks=3)
    >>> ask = Question("v2", "v1", "improve", "auc", 0.005)
    >>> round(turn([], ask, gates).alpha, 4)  # 0.05 / (1 + 1/4 + 1/9)
    0.0367
    >>> first = Look(1, Question("v1", "v0", "improve", "auc", 0.005), 0.0367, Outcome.PASS)
    >>> round(turn([first], ask, gates).alpha, 4)  # a quarter of that
    0.0092

    Source: error probability spent over a sequence of tests, Foster and Stine, *JRSS B* 70, 2008; why a holdout wears out, Dwork et al.,
    *Science* 349, 2015.
    """
    earlier = next((look for look in looks if look.question == question), None)
    if earlier is not None:
        return Turn(earlier.number, earlier.alpha, len(looks), gates.max_looks, earlier)
    number = len(looks) + 1
    if number > gates.max_looks:
        return Turn(number, 0.0, len(looks), gates.max_looks)
    share = gates.alpha / number**2 / sum(1 / k**2 for k in range(1, gates.max_looks + 1))
    # What earlier looks spent counts, also if max_looks was another number then; a small rest is not worth a look.
    left = gates.alpha - sum(look.alpha for look in looks)
    return Turn(number, min(share, left) if left > share / 2 else 0.0, len(looks), gates.max_looks)
