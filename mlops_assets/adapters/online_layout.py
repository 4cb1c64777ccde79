"""How Feast lays out its online stores, for who reads them without Feast: serving processes, in which it has no place.

The formats are Feast 0.67's (``docs/specs/online_store_format.md``), with entity keys of version 3. In Redis an entity is a hash, and all
views of it are in it: a field for each feature, named by a hash, and one for each view with the time of its values. In SQLite a view is a
table with a row for each entity and feature.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import mmh3

from mlops_assets.core.errors import BadData, NotFound
from mlops_assets.core.feature_views import FeatureVersion, View
from mlops_assets.ports import ObjectStore

PROJECT = "mlops_assets"
"""Feast's project, which is part of every key."""

Value = float | str | None

_STRING = 2
"""Feast's number for the type of entities."""

_DOUBLE_TAG, _STRING_TAG = 0x29, 0x12
_double = struct.Struct("<d").unpack_from


@dataclass(frozen=True, slots=True)
class Held:
    """What a store has of one entity in one view.

    Args:
        values: in the order of the view's fields.
        event_time: from when on they are valid, in seconds since 1970.
    """

    values: tuple[Value, ...]
    event_time: float


def write_version(objects: ObjectStore, version: FeatureVersion, until: datetime | None) -> None:
    """Say by which definitions the online store is filled, and as of when its values are; None before they are there."""
    document = {"version": version.to_document(), "until": until.isoformat() if until else None}
    objects.put(_version_key(version.service), json.dumps(document).encode())


def read_version(objects: ObjectStore, service: str) -> FeatureVersion | None:
    """By which definitions the online store was filled; None if it never was.

    Raises:
        BadData: if what says so cannot be read.
    """
    key = _version_key(service)
    try:
        return FeatureVersion.from_document(json.loads(objects.get(key))["version"])
    except NotFound:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(f"{key} is not what online_features writes ({error!r}): materialize online_features again") from error


def entity_key(entity: str, value: str) -> bytes:
    """An entity as SQLite's tables have it."""
    name, told = entity.encode(), value.encode()
    parts = struct.pack("<III", 1, _STRING, len(name)), name, struct.pack("<II", _STRING, len(told)), told
    return b"".join(parts)


def redis_key(entity: str, value: str) -> bytes:
    """The key of an entity's hash."""
    return entity_key(entity, value) + PROJECT.encode()


def redis_fields(view: View) -> tuple[bytes, ...]:
    """The fields of an entity's hash that are the view's: that of its time, then those of its values."""
    hashes = (mmh3.hash(f"{view.name}:{field.name}", signed=False) for field in view.fields)
    return (f"_ts:{view.name}".encode(), *(struct.pack("<I", number) for number in hashes))


def read_redis(found: Sequence[bytes | None]) -> Held | None:
    """What the fields of :func:`redis_fields` held; nothing if the view knows nothing of the entity."""
    if found[0] is None:
        return None
    return Held(tuple([_value(data) for data in found[1:]]), _seconds(found[0]))


def sqlite_query(view: View, entities: int) -> str:
    """Selects entity, feature, value and time of so many entities of a view."""
    table = f"{PROJECT}_{view.name}".replace('"', '""')
    places = ", ".join("?" * entities)
    return f'SELECT entity_key, feature_name, value, event_ts FROM "{table}" WHERE entity_key IN ({places})'  # noqa: S608 : quoted


def read_sqlite(view: View, rows: Sequence[tuple[str, bytes, int]]) -> Held | None:
    """What feature, value and time of one entity say; nothing if there are none."""
    if not rows:
        return None
    values = {name: _value(data) for name, data, _ in rows}
    # Feast writes the time as if it were of this machine's zone
    told = datetime.fromtimestamp(max(seconds for *_, seconds in rows)).replace(tzinfo=UTC)  # noqa: DTZ006
    return Held(tuple(values.get(field.name) for field in view.fields), told.timestamp())


def _version_key(service: str) -> str:
    return f"tables/features/online/{service}.json"


def _value(data: bytes | None) -> Value:
    """Feast's ``Value`` message: a double, a string, or nothing."""
    if not data:
        return None
    if data[0] == _DOUBLE_TAG and len(data) == 9:
        number: float = _double(data, 1)[0]
        return None if number != number else number
    if data[0] == _STRING_TAG:
        length, start = _varint(data, 1)
        if start + length == len(data):
            return data[start:].decode()
    raise BadData(f"online store: got a value of {len(data)} bytes that begins with {data[:1].hex()}, expected a double or a string")


def _seconds(data: bytes) -> float:
    """Protobuf's ``Timestamp``: its fields 1 and 2 are seconds and nanoseconds."""
    told, place = {0x08: 0, 0x10: 0}, 0
    while place < len(data):
        tag = data[place]
        if tag not in told:
            raise BadData(f"online store: got a time of {data.hex()}, expected seconds and nanoseconds")
        told[tag], place = _varint(data, place + 1)
    return told[0x08] + told[0x10] / 1e9


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The number that begins at ``place``, and where it ends."""
    number = shift = 0
    while place < len(data):
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return number, place
        shift += 7
    raise BadData(f"online store: {data.hex()} ends within a number")
