"""What is done about a release that burns its budget: a person is woken, or it is rolled back, and never again and again."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from mlops_assets.core.policy import Policy
from mlops_assets.core.slo_spec import Slo

AUTHOR = "slo sensor"
"""Who rolls back because of a burn, in the policy's log; by this name its rollbacks are counted."""

CAP_WINDOW = timedelta(hours=24)


@dataclass(frozen=True)
class Remedy:
    """``rollback``, or ``page`` with why it is not one."""

    action: Literal["rollback", "page"]
    reason: str


def remedy(slo: Slo, policy: Policy, now: datetime, pace: float = 1.0) -> Remedy:
    """What a fast burn of the champion leads to.

    A champion is rolled back by itself once: who brought it back since knows more. After a rollback, whoever made it, the next one waits
    for the cooldown, and there are so many in a day: when one release after the other burns, it is not the release.
    """
    champion, ours = policy.champion, [c for c in policy.log if c.action == "rollback" and c.author.who == AUTHOR]
    if slo.on_slo_violation != "rollback":
        return Remedy("page", "slo.on_slo_violation is page")
    if policy.previous is None:
        return Remedy("page", f"{champion} has no release before it to go back to: promote another, or stop the traffic before the gateway")
    if any(change.left == champion for change in ours):
        return Remedy("page", f"{champion} was rolled back for this before and brought back by a person, who decides")
    cooldown = slo.rollback_cooldown / pace
    last = max((change.at for change in policy.log if change.action == "rollback"), default=None)
    if last is not None and now < last + cooldown:
        return Remedy(
            "page",
            f"the last rollback is {(now - last).total_seconds():.0f} s ago, the next may be {cooldown.total_seconds():.0f} s after it",
        )
    recent = [change for change in ours if now - change.at < CAP_WINDOW / pace]
    if len(recent) >= slo.max_rollbacks:
        return Remedy(
            "page",
            f"{len(recent)} releases were rolled back in {CAP_WINDOW / pace}, as many as slo.max_rollbacks allows: it is not the release",
        )
    return Remedy("rollback", f"{champion} leaves for {policy.previous}")
