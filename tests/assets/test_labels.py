"""Labels that land while a canary is under way: they count once, however often one looks, and can abort it."""

from dataclasses import replace
from datetime import date, timedelta

import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss

from mlops_assets.adapters import labels
from mlops_assets.core.canary import Move
from mlops_assets.core.evidence import Labelled
from mlops_assets.rollout import decide_now, labelled
from tests.assets.gifts import HOUR, NAME, Gifts
from tests.world import World

ASKED = [date(2024, 1, 1) + timedelta(days=n) for n in range(40, 46)]
"""Days that have not landed when the canary begins."""


@pytest.fixture
def labelled_shop(shop: Gifts) -> Gifts:
    """The model with a guardrail on its Brier score, and none on the shift of its scores."""
    guardrails = replace(shop.spec.canary.guardrails, max_brier_increase=0.05, max_score_shift=1.0)
    return replace(shop, spec=replace(shop.spec, canary=replace(shop.spec.canary, guardrails=guardrails)), _built={})


def ask(world: World, shop: Gifts) -> pd.DataFrame:
    """Requests about orders that will land later."""
    orders = pd.concat([shop.sample.orders(day) for day in ASKED], ignore_index=True)
    asked = shop.requests(len(orders)).assign(unit=orders["customer_id"], request_id=orders["order_id"])
    return world.send(NAME, asked.assign(**{name: orders[name] for name in ("event_time", "items", "amount", "discount", "channel")}))


def in_shadow(shop: Gifts) -> tuple[World, object]:
    world, moods = shop.world()
    shop.first_release(world)
    shop.train(world)
    world.settle()
    assert world.policy(NAME).challenger.step_name == "shadow"
    decide_now(world.platform, shop.spec, world.policy(NAME))
    return world, moods


@pytest.mark.long
def test_late_labels_abort_a_release_whose_scores_are_worse(labelled_shop: Gifts) -> None:
    world, moods = in_shadow(labelled_shop)
    moods.shifted.add("v2")
    ask(world, labelled_shop)
    decision, seen = decide_now(world.platform, labelled_shop.spec, world.policy(NAME))
    assert (decision.move, seen.labelled["v2"]) == (Move.HOLD, Labelled())

    labelled_shop.sample.land(world.objects, 50)
    world.clock.advance(HOUR)
    world.tick("new_data")
    decision, seen = decide_now(world.platform, labelled_shop.spec, world.policy(NAME))
    again = decide_now(world.platform, labelled_shop.spec, world.policy(NAME))[1]
    assert seen.labelled == again.labelled
    assert seen.labelled["v2"].rows == seen.labelled["v1"].rows == 400 * len(ASKED)
    assert decision.move is Move.ABORT
    assert "mean squared error" in decision.reason


def test_the_squared_errors_are_those_of_the_brier_score(labelled_shop: Gifts) -> None:
    world, _ = in_shadow(labelled_shop)
    answers = ask(world, labelled_shop)
    labelled_shop.sample.land(world.objects, 50)
    world.clock.advance(HOUR)
    world.tick("new_data")
    found = labelled(world.platform, labelled_shop.spec, world.policy(NAME))["v1"]
    returned = pd.concat([labelled_shop.sample.orders(day) for day in ASKED])["returned"]
    assert found.squared_error / found.rows == pytest.approx(brier_score_loss(returned, answers["score"]))


@pytest.mark.long
def test_answers_to_orders_that_never_landed_do_not_count(labelled_shop: Gifts) -> None:
    world, _ = in_shadow(labelled_shop)
    strangers = pd.DataFrame({"unit": ["c0001"], "event_time": [pd.Timestamp("2024-01-05T12:00:00.5Z")], "score": [0.2]})
    assert labels.squared_errors(world.objects, labelled_shop.spec, strangers) == Labelled()
