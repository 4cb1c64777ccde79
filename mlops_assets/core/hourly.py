"""An hour of a release's answers as counts that can be added up, and how far a model's log has been watched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from mlops_assets.core import grid
from mlops_assets.core.performance import Calibration, Performance, expected
from mlops_assets.core.profile import ColumnProfile, Profile, merge_all
from mlops_assets.core.verdict import Verdict

HOUR = timedelta(hours=1)
YES = "score of yes"
"""The name of the column that counts the scores of the answers that were a yes."""

_FORMAT = "%Y%m%dT%H"


def hour_of(time: datetime) -> datetime:
    """The hour, in UTC, that a time lies in.

    >>> hour_of(datetime(2013, 1, 1, 10, 59, 59, tzinfo=UTC)).isoformat()
    '2013-01-01T10:00:00+00:00'
    """
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def name_of(hour: datetime) -> str:
    """An hour in the names of objects, which are in the order of time.

    >>> name_of(datetime(2013, 1, 1, 10, tzinfo=UTC))
    '20130101T10'
    """
    return hour.astimezone(UTC).strftime(_FORMAT)


def hour_named(name: str) -> datetime:
    return datetime.strptime(name, _FORMAT).replace(tzinfo=UTC)


@dataclass(frozen=True, eq=False)
class HourProfile:
    """The live answers of one release in some hours.

    Args:
        profile: features and score, in the bins of the release's baseline.
        yes: the scores of those that were a yes.
    """

    profile: Profile
    yes: ColumnProfile

    @property
    def rows(self) -> int:
        return self.profile.columns[-1].rows

    def to_json(self) -> str:
        return Profile((*self.profile.columns, replace(self.yes, name=YES))).to_json()

    @classmethod
    def from_json(cls, text: str) -> "HourProfile":
        """Read what :meth:`to_json` wrote; raises as :meth:`Profile.from_json`."""
        *columns, yes = Profile.from_json(text).columns
        return cls(Profile(tuple(columns)), yes)


def merge_hours(hours: Sequence[HourProfile]) -> HourProfile:
    """All hours together, at least one; each is looked at once. Raises as :func:`mlops_assets.core.profile.merge_all`."""
    (yes,) = merge_all([Profile((hour.yes,)) for hour in hours]).columns
    return HourProfile(merge_all([hour.profile for hour in hours]), yes)


def expected_of(known: Calibration, seen: HourProfile) -> Performance:
    """What the counted scores let expect before labels come. A score counts where its cell lies, at most 1/512 of its distance from the
    baseline's median beside where it was.
    """
    score, yes = seen.profile.columns[-1], seen.yes
    of_yes = dict(zip(yes.cells, yes.cell_counts, strict=True))
    no = [count - of_yes.get(cell, 0) for cell, count in zip(score.cells, score.cell_counts, strict=True)]
    cells, counts = np.asarray((*score.cells, *yes.cells), dtype=np.int64), np.asarray((*no, *yes.cell_counts), dtype=np.int64)
    decided = np.repeat([False, True], [len(score.cells), len(yes.cells)])
    kept = (counts > 0) & (np.abs(cells) < grid.INFINITE)
    values = np.clip(score.centre + grid.places(cells[kept], score.categorical), 0, 1)
    return expected(known, values, decided[kept], counts[kept])


@dataclass(frozen=True)
class Progress:
    """How far a model's answers have been watched: what a run needs to know of the one before.

    Args:
        position: up to where the prediction log was read.
        unprofiled: hours that have answers which no profile counts yet.
        unjoined: hours that have answers which were not held against the labels that are there.
        joined: by day of events, the version of its events and labels that the answers were held against; of the newest days by hour too.
        newest: the newest hour that has a live answer. A smoke test asks now, also where a year of long ago is replayed.
        judged: the newest hour whose performance was judged.
        reported_at: when the last drift report was made.
        is_reported: whether it counts all that is profiled.
        shown: the drifted columns of which the last HTML report was made.
        unseen: the columns whose newest hour lies beyond all that the model was trained on.
        is_urgent: whether one of them has come to be so since the last drift report, which is then due.
    """

    position: str = ""
    unprofiled: tuple[datetime, ...] = ()
    unjoined: tuple[datetime, ...] = ()
    joined: Mapping[str, str] = field(default_factory=dict)
    newest: datetime | None = None
    judged: datetime | None = None
    reported_at: datetime | None = None
    is_reported: bool = False
    shown: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    is_urgent: bool = False

    def read_to(self, position: str, touched: Sequence[datetime], live: datetime | None) -> "Progress":
        """Some more of the log is in its hours; the newest of its live answers is in the hour ``live``."""
        unprofiled, unjoined = (tuple(sorted({*before, *touched})) for before in (self.unprofiled, self.unjoined))
        newest = max((hour for hour in (live, self.newest) if hour is not None), default=None)
        reported = self.is_reported and not touched
        return replace(self, position=position, unprofiled=unprofiled, unjoined=unjoined, newest=newest, is_reported=reported)

    def profiled(self, left: Sequence[datetime], unseen: Sequence[str] | None) -> "Progress":
        """Hours were counted, but for those ``left``; ``unseen`` is of the newest hour, None if that was not among them."""
        now = self.unseen if unseen is None else tuple(unseen)
        return replace(
            self, unprofiled=tuple(left), is_reported=False, unseen=now, is_urgent=self.is_urgent or not set(now) <= set(self.unseen)
        )


@dataclass(frozen=True)
class Judged:
    """The verdict on a release's performance up to an hour, as it was when it was made."""

    release: str
    verdict: Verdict
