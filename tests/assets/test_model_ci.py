"""A new model beside a copy of production's champion: what CI does, on in-memory adapters."""

import pytest

from mlops_assets.assets.baseline import baseline_key
from mlops_assets.core.errors import NotFound, Unavailable
from mlops_assets.model_ci.champion import champion_of, copy_data, copy_release, crown, days_wanted, land_sample, landed_days
from mlops_assets.ports import model_key
from mlops_assets.reconcile import differences, reconcile
from tests.assets.gifts import NAME, Gifts
from tests.world import World


@pytest.fixture
def production(shop: Gifts) -> World:
    return shop.copy(shop.with_first_release())[0]


@pytest.fixture
def own(shop: Gifts) -> World:
    return shop.world()[0]


def ingest(world: World, shop: Gifts) -> None:
    days = sorted(landed_days(world.platform, NAME).values())
    span = {"dagster/asset_partition_range_start": days[0].isoformat(), "dagster/asset_partition_range_end": days[-1].isoformat()}
    world.materialize(NAME, *shop.spec.data.datasets, "features", tags=span)


def test_productions_champion_serves_beside_the_new_model_which_is_held_against_it(shop, production, own):
    known = champion_of(production.platform, NAME)
    copy_data(production.platform, own.platform, shop.spec)
    release = copy_release(production.platform, own.platform, known)
    crown(own.platform, shop.spec, release)
    reconcile(own.platform, NAME, shop.spec.serving)

    assert own.policy(NAME).champion == release
    assert own.policy(NAME).digests[release] == known.digest
    for key in (model_key, baseline_key):
        assert own.objects.get(key(NAME, release)) == production.objects.get(key(NAME, known.release))
    assert differences(own.platform, NAME) == ()

    ingest(own, shop)
    shop.train(own)
    own.materialize(NAME, "evaluation", "staging", partition="v2")
    certificate = own.objects.get(f"evidence/{NAME}/v2/certificate.md").decode()
    assert f"against {release} on" in certificate
    assert [one.release for one in own.platform.deployments.running(NAME) if one.ready] == ["v1", "v2"]


def test_nothing_that_ci_does_reaches_production(shop, production, own):
    before = production.policy(NAME), {info.key: info.etag for info in production.objects.list("models/")}
    copy_data(production.platform, own.platform, shop.spec)
    crown(own.platform, shop.spec, copy_release(production.platform, own.platform, champion_of(production.platform, NAME)))
    assert before == (production.policy(NAME), {info.key: info.etag for info in production.objects.list("models/")})


def test_only_the_days_that_a_training_needs_are_copied(shop, production, own):
    shop.sample.land(production.objects, 40)
    copied = copy_data(production.platform, own.platform, shop.spec)
    days = landed_days(own.platform, NAME)
    assert len(days) == copied < len(landed_days(production.platform, NAME))
    assert max(days.values()) == max(landed_days(production.platform, NAME).values())
    assert max(days.values()) - min(days.values()) <= days_wanted(shop.spec)


def test_without_a_production_in_reach_there_is_no_champion(production, own, monkeypatch):
    assert champion_of(None, NAME) is None
    assert champion_of(own.platform, NAME) is None

    def away(_: str) -> None:
        raise Unavailable("the object store does not answer")

    monkeypatch.setattr(production.platform.policies, "read", away)
    assert champion_of(production.platform, NAME) is None


def test_sample_data_are_as_many_days_as_a_training_needs(shop, own):
    land_sample(own.platform, shop.spec)
    days = landed_days(own.platform, NAME).values()
    assert max(days) - min(days) >= shop.spec.training.window + shop.spec.holdout.window


def test_a_model_without_sample_data_says_what_to_write(shop, own, monkeypatch):
    monkeypatch.setattr("mlops_assets.model_ci.champion.find_spec", lambda name: None)
    with pytest.raises(NotFound, match=r"no mlops_assets.defs.gift_returns.sample with land\(objects, days\)"):
        land_sample(own.platform, shop.spec)
