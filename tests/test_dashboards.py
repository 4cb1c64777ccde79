"""The committed dashboards are those that the code builds."""

import re

import pytest

from mlops_assets.dashboards import FOLDER, PAGES, Page, document, text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.uid)
def test_what_is_committed_is_what_is_built(page: Page) -> None:
    assert (FOLDER / f"{page.uid}.json").read_text() == text(page), "run 'make dashboards' and commit what it writes"


def test_no_other_dashboard_is_committed() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{page.uid}.json" for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.uid)
def test_each_panel_asks_the_chosen_source_and_the_chosen_model(page: Page) -> None:
    built = document(page)
    variables = {variable["name"] for variable in built["templating"]["list"]}
    assert variables == ({"datasource", "model"} if page.per_model else {"datasource"})
    panels = [panel for panel in built["panels"] if panel["type"] != "row"]
    assert len(panels) > 10
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert target["legendFormat"]
            assert ('model="$model"' in target["expr"]) is page.per_model
            assert not re.search(r"\{\{|\[\d", target["expr"])  # windows are Grafana's to choose


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.uid)
def test_panels_do_not_lie_on_each_other(page: Page) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in document(page)["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
