"""From the prediction log to counts by hour: the assets ``predictions`` and ``prediction_profile``."""

from datetime import datetime
from functools import cache, partial

import dagster as dg

from mlops_assets.adapters import compaction, hours, pseudonyms
from mlops_assets.assets.baseline import baseline_of
from mlops_assets.assets.hourly import Asked, HourlyReport, Made
from mlops_assets.core.drift import unseen
from mlops_assets.core.errors import NotFound
from mlops_assets.core.hourly import HourProfile
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.profile import Profile
from mlops_assets.core.verdict import Outcome
from mlops_assets.ports import Platform


def predictions(platform: Platform, spec: ModelSpec, _: Asked) -> Made:
    """Put what is new in the log into the files of its event hours.

    The position is kept with the hours that are to be profiled, after their files: whoever is killed in between reads some of the log
    again, and adds nothing twice.
    """
    progress, found = hours.read_progress(platform.objects, spec.name), dict[datetime, compaction.Compacted]()
    while True:
        new = platform.predictions.read(spec.name, progress.position, limit=hours.ROWS_AT_ONCE)
        if new.rows.empty and new.position == progress.position:
            break
        added = compaction.add(platform.objects, spec.name, new.rows)
        progress = progress.read_to(new.position, list(added), compaction.newest_live(new.rows))
        hours.write_progress(platform.objects, spec.name, progress)
        for hour, one in added.items():
            found[hour] = compaction.Compacted(one.added + (found[hour].added if hour in found else 0), one.rows)
        if len(new.rows) < hours.ROWS_AT_ONCE:
            break  # what comes in while this run is at work is the next one's
    return {
        hour: dg.MaterializeResult(
            metadata={
                "rows": made.rows,
                "new_rows": made.added,
                "file": dg.MetadataValue.path(f"s3://{hours.predictions_key(spec.name, hour)}"),
            }
        )
        for hour, made in found.items()
    }


def prediction_profile(platform: Platform, spec: ModelSpec, asked: Asked) -> Made:
    """Count the live answers of the hours that have new ones, release by release in the bins of its baseline."""
    progress, made = hours.read_progress(platform.objects, spec.name), dict[datetime, dg.MaterializeResult]()
    base_of, newest = cache(partial(_base, platform, spec)), None
    words = pseudonyms.categories(spec, platform.pii_key)
    for hour in asked.hours or progress.unprofiled:
        try:
            found = hours.profile_hour(platform.objects, spec.name, hour, spec.features.inputs, base_of, words)
        except NotFound:
            continue  # an hour in which nothing was served has no profile
        profiles = {release: profile for release, profile in found.items() if profile is not None}
        for release, profile in profiles.items():
            hours.write_profile(platform.objects, spec.name, release, hour, profile)
        rows = {f"rows_{release}": profile.rows for release, profile in profiles.items()}
        without = ", ".join(sorted(set(found) - set(profiles)))
        made[hour] = dg.MaterializeResult(
            metadata={"rows": sum(rows.values()), **rows, **({"without_baseline": without} if without else {})}
        )
        if hour == progress.newest:
            newest = [name for release, profile in profiles.items() for name in unseen_in(spec, base_of(release), profile)]
    left = [hour for hour in progress.unprofiled if asked.hours and hour not in asked.hours]
    if made or left != list(progress.unprofiled):
        hours.write_progress(platform.objects, spec.name, progress.profiled(left, newest))
    return made


def unseen_in(spec: ModelSpec, base: Profile, hour: HourProfile) -> list[str]:
    """The watched features of which most of an hour lies beyond all that the release was trained on."""
    found = unseen(base, hour.profile, spec.watched)
    return [verdict.name for verdict in found if verdict.outcome is Outcome.FAIL]


def _base(platform: Platform, spec: ModelSpec, release: str) -> Profile | None:
    try:
        return baseline_of(platform, spec, release).profile
    except NotFound:
        return None


PREDICTIONS = HourlyReport(
    noun="predictions",
    make=predictions,
    deps=("production",),
    description="Every answer of an event hour with its features, release, score and latency, once by request id, release and role.",
    kinds=frozenset({"parquet", "s3"}),
)
PROFILE = HourlyReport(
    noun="prediction_profile",
    make=prediction_profile,
    deps=("predictions",),
    description="An hour's live answers counted by release, features and scores, in the bins of its baseline. Hours can be added up.",
)
