"""Pseudonyms are HMAC-SHA256, and a key is asked for without being told."""

import hashlib

import pytest

from mlops_assets.core.errors import SpecError
from mlops_assets.core.pii import pseudonym, require_key

KEY = "0123456789abcdef"


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """By RFC 2104, step by step."""
    block = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).digest()


def test_the_reference_is_rfc_4231s_second_case() -> None:
    told = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert hmac_sha256(b"Jefe", b"what do ya want for nothing?").hex() == told


@pytest.mark.parametrize("value", ["4000 1234", "", "Zoë", "a\0b"])
def test_a_pseudonym_is_half_an_hmac_of_model_field_and_value(value: str) -> None:
    expected = hmac_sha256(KEY.encode(), f"fraud-detector\0card\0{value}".encode())[:16].hex()
    assert pseudonym(KEY, "fraud-detector", "card", value) == expected


def test_the_same_value_has_another_pseudonym_in_another_field_model_or_under_another_key() -> None:
    made = {
        pseudonym(key, model, field, "1") for key in (KEY, KEY[::-1]) for model in ("fraud-detector", "churn") for field in ("card", "iban")
    }
    assert len(made) == 8


@pytest.mark.parametrize(("key", "got"), [("", "holds nothing"), ("a-short-secret", "holds fewer than 16 characters")])
def test_a_missing_or_short_key_is_named_but_never_told(key: str, got: str) -> None:
    with pytest.raises(SpecError, match=f"card is marked pii: hash, and MLOPS_PII_KEY {got}: set it to a secret") as error:
        require_key(key, "fraud-detector", "card")
    assert not key or key not in str(error.value)
    require_key(KEY, "fraud-detector", "card")
