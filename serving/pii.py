"""Marked fields of a model, before anything of them is written: hashed, or left out; and not told in an error."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from mlops_assets.adapters.prediction_log import Answer, LoggedInput
from mlops_assets.core.pii import HIDDEN, pseudonym, require_key
from mlops_assets.core.signature import Signature
from serving.errors import BadRequest

_NAMES = re.compile(r"[^.\[\]]+")
_TELLS_NO_VALUE = re.compile(r"(nothing|null|true|false|a list of \d+|an object of \d+|a name that is not known|\d+ bytes.*)", re.DOTALL)
"""What :class:`BadRequest` says it got where that is no value."""


class Concealment:
    """What one release does with the fields that its signature marks.

    Args:
        signature: the model's.
        logged: its inputs, entities and request fields in the order of :attr:`Answer.features`.
        key: what pseudonyms are made with.

    Raises:
        SpecError: if a field is to be hashed and there is no key.
    """

    def __init__(self, signature: Signature, logged: Sequence[LoggedInput], key: str) -> None:
        marks, names = signature.pii, {signature.unit, *(each.name for each in logged)}
        hashed = [name for name, mark in marks.items() if mark == "hash" and name in names]
        if hashed:
            require_key(key, signature.model, ", ".join(hashed))
        self._key, self._model = key, signature.model
        self._kept = tuple(
            (place, each.name if each.name in hashed else None) for place, each in enumerate(logged) if marks.get(each.name) != "drop"
        )
        self.logged = tuple(logged[place] for place, _ in self._kept)
        self._unit = signature.unit if signature.unit in hashed else None
        version = signature.features
        computed = {item.name for view in (version.on_demand if version else ()) for item in view.fields}
        self._told = frozenset(feature.name for feature in signature.inputs) - marks.keys() - computed

    def of(self, answers: Sequence[Answer]) -> list[Answer]:
        """The answers as they may be written."""
        return [self._of(answer) for answer in answers]

    def refusal(self, error: BadRequest) -> BadRequest:
        """The error without the value that was sent, unless it is of an input that is neither marked nor computed from others."""
        names = _NAMES.findall(error.field)
        if "inputs" in names[:-1] and names[names.index("inputs") + 1] in self._told:
            return error
        return error if _TELLS_NO_VALUE.fullmatch(error.got) else BadRequest(error.field, HIDDEN, error.expected, error.mend)

    def _of(self, answer: Answer) -> Answer:
        values = ((field, answer.features[place]) for place, field in self._kept)
        return msgspec.structs.replace(
            answer,
            unit=answer.unit if self._unit is None else pseudonym(self._key, self._model, self._unit, answer.unit),
            features=tuple(value if field is None or value is None else self._hashed(field, value) for field, value in values),
        )

    def _hashed(self, field: str, value: float | str) -> str:
        return pseudonym(self._key, self._model, field, str(value))
