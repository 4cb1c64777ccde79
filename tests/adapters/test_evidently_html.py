"""Evidently itself draws what it is given."""

import numpy as np
import pandas as pd

from mlops_assets.adapters import evidently_html


def test_two_samples_make_one_page_that_needs_nothing_else() -> None:
    generator = np.random.default_rng(1)
    rows = [
        pd.DataFrame(
            {
                "amount": generator.normal(mean, 1, 300),
                "channel": generator.choice(["web", "app"], 300).astype(object),
                "constant": 1.0,
                "never_measured": np.full(300, np.nan),
            }
        )
        for mean in (0, 3)
    ]
    rows[1].loc[:40, "channel"] = None
    page = evidently_html.drift(*rows, ["channel"]).decode()
    assert "<html" in page[:200].lower()
    assert all(name in page for name in ("amount", "channel", "constant"))
    assert "never_measured" not in page
