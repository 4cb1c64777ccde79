"""What is kept of a training so that its release can be watched: one document beside the model."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from mlops_assets.core.calibration import Blocks
from mlops_assets.core.performance import Calibration
from mlops_assets.core.profile import Profile

IMPORTANCE_ROWS = 2000
"""How many rows each feature's importance is measured on."""

_SEED = 11


@dataclass(frozen=True, eq=False)
class Baseline:
    """The baseline of a release.

    Args:
        profile: of the training rows, features and score.
        blocks: the same rows by time.
        importance: what each feature moves the scores by, as a share of all features together.
        calibration: what a score means, by the holdout; None if that could not tell.
        auc: on the holdout; None if that had one class, or the training is of before it was kept.
        margins: by metric, how far the days of the holdout strayed from what was expected of them.
    """

    profile: Profile
    blocks: Blocks
    importance: Mapping[str, float]
    calibration: Calibration | None
    auc: float | None = None
    margins: Mapping[str, float] = field(default_factory=dict)

    def only(self, names: Sequence[str]) -> "Baseline":
        """The same of some of its columns, in the order of ``names``."""
        places = [self.profile.names.index(name) for name in names]
        columns = tuple(self.profile.columns[place] for place in places)
        blocks = Blocks(self.blocks.length, tuple(self.blocks.counts[place] for place in places))
        return replace(self, profile=Profile(columns), blocks=blocks)

    def to_json(self) -> str:
        document = json.loads(self.profile.to_json())
        document["blocks"] = self.blocks.to_document()
        document["importance"] = dict(self.importance)
        document["calibration"] = asdict(self.calibration) if self.calibration else None
        document["auc"] = self.auc
        document["margins"] = dict(self.margins)
        return json.dumps(document, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Baseline":
        """Read what :meth:`to_json` wrote.

        Raises:
            BadData: if it is of another version.
        """
        profile, document = Profile.from_json(text), json.loads(text)
        known = document["calibration"]
        means = Calibration(**{name: tuple(values) for name, values in known.items()}) if known else None
        blocks, margins = Blocks.from_document(document["blocks"]), document.get("margins", {})
        return cls(profile, blocks, document["importance"], means, document.get("auc"), margins)


def importance(names: Sequence[str], score: Callable[[np.ndarray], np.ndarray], matrix: np.ndarray) -> dict[str, float]:
    """How much a model relies on each feature: the mean distance by which scores move when the feature's values change places.

    As a share of the sum over all features; 0 each if no feature moves anything. It asks for no labels, so a window of one class is no
    trouble. Of two features that say the same, each may look less important than it is.

    Args:
        names: of the features.
        score: the model, (rows, features) to (rows,).
        matrix: rows that the model can be asked about, shape (rows, features); of more than 2,000 as many are drawn.

    Source: Fisher, Rudin and Dominici, *JMLR* 20, 2019.

    >>> values = np.random.default_rng(0).normal(size=(1000, 3))
    >>> shares = importance(["a", "b", "c"], lambda rows: 3 * rows[:, 0] + rows[:, 1], values)
    >>> {name: round(share, 2) for name, share in shares.items()}
    {'a': 0.75, 'b': 0.25, 'c': 0.0}
    """
    generator = np.random.default_rng(_SEED)
    if len(matrix) > IMPORTANCE_ROWS:
        matrix = matrix[generator.choice(len(matrix), IMPORTANCE_ROWS, replace=False)]
    if not len(matrix):
        return dict.fromkeys(names, 0.0)
    before, moved = score(matrix), []
    for index in range(len(names)):
        shuffled = matrix.copy()
        shuffled[:, index] = generator.permutation(shuffled[:, index])
        moved.append(float(np.mean(np.abs(score(shuffled) - before))))
    total = sum(moved)
    return {name: part / total if total > 0 else 0.0 for name, part in zip(names, moved, strict=True)}
