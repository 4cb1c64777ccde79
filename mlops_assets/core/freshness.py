"""Whether the values of a feature view still stand."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from mlops_assets.core.feature_views import View
from mlops_assets.core.verdict import Outcome, Verdict, combine

HOUR = timedelta(hours=1)


def freshness(view: View, newest: datetime | None, at: datetime) -> Verdict:
    """Whether a view's newest value is within its time to live; value and threshold are hours.

    Args:
        newest: since when it has been valid; ``None`` if the view has no value at all.
        at: the time that is asked about, not before ``newest``.

    >>> from mlops_assets.core.feature_views import Field
    >>> weather = View("weather", "airport", (Field("wind"),), ttl=timedelta(hours=3))
    >>> freshness(weather, datetime(2013, 1, 5, 23, 15), at=datetime(2013, 1, 6)).reason
    'weather: its newest value is 0:45:00 old, its ttl is 3:00:00'
    """
    ttl = view.ttl / HOUR
    if newest is None:
        reason = f"{view.name}: no row of it has a value: see that what it is made of lands, and that the transform fills it"
        return Verdict(view.name, Outcome.FAIL, None, ttl, reason)
    age = at - newest
    told = f"{view.name}: its newest value is {age} old, its ttl is {view.ttl}"
    if age > view.ttl:
        return Verdict(
            view.name, Outcome.FAIL, age / HOUR, ttl, f"{told}: what it is made of has stopped landing, or the transform has lost it"
        )
    return Verdict(view.name, Outcome.PASS, age / HOUR, ttl, told)


def summarize(verdicts: Sequence[Verdict]) -> Verdict:
    """All views' verdicts as one: with the figures of the first that failed, else of the one that is nearest to its time to live.

    >>> fresh, stale = (Verdict(name, outcome, hours, 3, f"{name}: ...") for name, outcome, hours in (
    ...     ("weather", Outcome.PASS, 1), ("delays", Outcome.FAIL, 5)))
    >>> summarize([fresh, stale])
    Verdict(name='views_fresh', outcome=<Outcome.FAIL: 'fail'>, value=5, threshold=3, reason='delays: ...', sample=0)
    """
    if not verdicts:
        return Verdict("views_fresh", Outcome.INCONCLUSIVE, None, None, "the service takes nothing of any view")
    failed = [verdict for verdict in verdicts if not verdict.passed]
    shown = (failed or sorted(verdicts, key=lambda verdict: -(verdict.value or 0) / (verdict.threshold or 1)))[0]
    reason = "; ".join(verdict.reason for verdict in failed or [shown])
    return Verdict("views_fresh", combine(verdicts), shown.value, shown.threshold, reason)
