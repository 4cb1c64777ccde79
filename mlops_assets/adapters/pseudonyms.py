"""Pseudonyms in tables: how a release logs its marked fields, and how who has the key joins them with what they stand for.

A field counts as marked from the first release that was trained with the mark. A log may therefore hold both: values of before stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mlops_assets.adapters.prediction_log import ENTITY_PREFIX, FEATURE_PREFIX, REQUEST_PREFIX
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.pii import pseudonym, require_key
from mlops_assets.core.signature import Signature

if TYPE_CHECKING:
    import pandas as pd


def concealed(answers: pd.DataFrame, signature: Signature, key: str) -> pd.DataFrame:
    """Answers as a release with this signature logs them.

    Raises:
        SpecError: if something is to be hashed and there is no key.
    """
    for field, mark in signature.pii.items():
        places = [prefix + field for prefix in (FEATURE_PREFIX, ENTITY_PREFIX, REQUEST_PREFIX) if prefix + field in answers]
        places += ["unit"] if field == signature.unit else []
        if mark == "drop":
            answers = answers.drop(columns=places)
            continue
        if places:
            require_key(key, signature.model, field)
        for place in places:
            hashed = [
                value if value is None or value != value else pseudonym(key, signature.model, field, value) for value in answers[place]
            ]
            answers = answers.assign(**{place: hashed})
    return answers


def originals(spec: ModelSpec, field: str, values: Iterable[str], key: str) -> Mapping[str, str]:
    """What values of a field are logged as, to the values; each of them also as itself, as it was before the field was marked.

    Raises:
        SpecError: if the field is hashed and there is no key.
    """
    known = {str(value) for value in values}
    own = {value: value for value in known}
    if spec.pii.get(field) != "hash":
        return own
    require_key(key, spec.name, field)
    return own | {pseudonym(key, spec.name, field, value): value for value in known}


def categories(spec: ModelSpec, key: str) -> Mapping[str, Mapping[str, str]]:
    """By input that is hashed, what its categories are logged as; see :func:`originals`."""
    hashed = [feature for feature in spec.features.inputs if feature.categories and spec.pii.get(feature.name) == "hash"]
    return {feature.name: originals(spec, feature.name, feature.categories, key) for feature in hashed}


def under_both_names(rows: pd.DataFrame, spec: ModelSpec, field: str, key: str) -> pd.DataFrame:
    """Rows, each also with the pseudonym of its ``field`` if that is hashed, so that answers find theirs whichever way they were logged."""
    import pandas as pd

    if spec.pii.get(field) != "hash":
        return rows
    text = rows[field].astype("string")
    of_value = {value: name for name, value in originals(spec, field, text.dropna().unique(), key).items() if name != value}
    return pd.concat([rows.assign(**{field: text}), rows.assign(**{field: text.map(of_value)})], ignore_index=True)


def readable(answers: pd.DataFrame, spec: ModelSpec, key: str) -> pd.DataFrame:
    """Answers with their categories instead of the pseudonyms, and a column without values for an input that was dropped.

    Raises:
        SpecError: if an input is hashed and there is no key.
    """
    for name, words in categories(spec, key).items():
        if (place := FEATURE_PREFIX + name) in answers:
            answers = answers.assign(**{place: [words.get(value, value) for value in answers[place]]})
    dropped = [name for name in spec.features.names if spec.pii.get(name) == "drop"]
    return answers.assign(**{FEATURE_PREFIX + name: None for name in dropped})
