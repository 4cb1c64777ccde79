"""The in-memory twin of :mod:`mlops_assets.adapters.alertmanager`."""

from collections.abc import Sequence
from datetime import datetime

from mlops_assets.core.alert import Alert, Firing
from mlops_assets.ports import Clock


class MemoryPager:
    """A :class:`mlops_assets.ports.Pager` in this process. ``told`` is what people heard: ``(trigger or resolve, alert)``."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[tuple[tuple[str, str], ...], tuple[Firing, datetime]] = {}
        self.told: list[tuple[str, Alert]] = []

    def fire(self, alerts: Sequence[Alert], until: datetime) -> None:
        self._expire()
        for alert in alerts:
            known = self._open.get(alert.identity)
            if known is None:
                self.told.append(("trigger", alert))
            self._open[alert.identity] = (Firing(alert, known[0].since if known else self._clock()), until)

    def resolve(self, alerts: Sequence[Alert]) -> None:
        self._expire()
        for alert in alerts:
            if self._open.pop(alert.identity, None) is not None:
                self.told.append(("resolve", alert))

    def firing(self, model: str) -> Sequence[Firing]:
        self._expire()
        return [firing for firing, _ in self._open.values() if firing.alert.model == model]

    def _expire(self) -> None:
        now = self._clock()
        over = [firing.alert for firing, until in self._open.values() if until <= now]
        for alert in over:
            del self._open[alert.identity]
            self.told.append(("resolve", alert))
