from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_assets.adapters.profile_parquet import profile_parquet
from mlops_assets.core.errors import BadData
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.profile import baseline, profile
from mlops_assets.core.signature import encode

INPUTS = [Feature("temperature"), Feature("hour"), Feature("carrier", ("AA", "UA")), Feature("late")]


def rows(count: int) -> dict[str, list]:
    generator = np.random.default_rng(1)
    return {
        "temperature": [None if value > 30 else float(value) for value in generator.normal(15, 8, count)],
        "hour": generator.integers(0, 24, count).tolist(),
        "carrier": generator.choice(["AA", "UA", "ZZ", None], count).tolist(),
        "late": generator.choice([True, False, None], count).tolist(),
    }


def write(path: Path, columns: dict[str, list], group: int = 700) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_a_file_is_read_as_a_model_reads_its_rows(tmp_path, count):
    start = rows(300)
    base = baseline([feature.name for feature in INPUTS], encode(INPUTS, start))
    asked = rows(5000) if count == 5000 else {name: values[:count] for name, values in rows(5000).items()}
    schema = pa.schema([("temperature", pa.float64()), ("hour", pa.int32()), ("carrier", pa.string()), ("late", pa.bool_())])
    pq.write_table(pa.table(asked, schema=schema), tmp_path / "rows.parquet", row_group_size=700)
    found, expected = profile_parquet(base, tmp_path / "rows.parquet", INPUTS), profile(base, encode(INPUTS, asked))
    for one, other in zip(found.columns, expected.columns, strict=True):
        assert (one.cells, one.cell_counts, one.nulls) == (other.cells, other.cell_counts, other.nulls)
        assert one.moments.mean == pytest.approx(other.moments.mean, rel=1e-9)


def test_what_cannot_be_read_is_refused_with_its_reason(tmp_path):
    base = baseline(["hour"], np.zeros((1, 1)))
    hour = [Feature("hour")]
    with pytest.raises(BadData, match="cannot be read as Parquet"):
        profile_parquet(base, tmp_path / "none.parquet", hour)
    (tmp_path / "text.parquet").write_text("hour")
    with pytest.raises(BadData, match="cannot be read as Parquet"):
        profile_parquet(base, tmp_path / "text.parquet", hour)
    with pytest.raises(BadData, match="got no column hour, expected every input"):
        profile_parquet(base, write(tmp_path / "a.parquet", {"day": [1]}), hour)
    with pytest.raises(BadData, match="column 'hour' holds words .*'seven'.*, expected numbers"):
        profile_parquet(base, write(tmp_path / "b.parquet", {"hour": ["seven"]}), hour)
