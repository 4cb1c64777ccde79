"""Objects and policy documents in S3. The first segment of a key is its bucket."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any
from uuid import uuid4

from mlops_assets.adapters.codec import decode, encode
from mlops_assets.core.errors import AlreadyExists, BadData, MlopsError, NotFound, StalePolicy, Unavailable
from mlops_assets.core.policy import Policy
from mlops_assets.credentials import Credentials
from mlops_assets.ports import ObjectInfo

POLICY_BUCKET = "policies"

_MISSING = {"NoSuchKey", "NoSuchVersion", "404"}
_PRECONDITION = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403"}


class _PreconditionFailed(MlopsError):
    """If-Match or If-None-Match did not hold."""


class _Connection:
    """Calls S3 and translates its errors. It is made at the first call: half a second that a command may not need.

    Args:
        url: of the endpoint; ``None`` for AWS itself.
        secret: to sign with; ``None`` for what the environment has, as for every AWS client.
    """

    def __init__(self, url: str | None, secret: Credentials | None = None) -> None:
        self._url, self._secret = url, secret

    def call(self, operation: str, key: str, **parameters: Any) -> Any:
        """Run one operation on the bucket of ``key``, which is otherwise only named in errors."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client, operation)(Bucket=_split(key)[0], **parameters)
        except ClientError as error:
            raise self._translated(error, key) from error
        except BotoCoreError as error:
            raise Unavailable(
                f"the object store at {self._where} does not answer for {key!r} ({error}): "
                f"see that it runs ('mlops status') and that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set"
            ) from error

    def prepare(self) -> None:
        """Make the client, which asks nobody."""
        _ = self._client

    @cached_property
    def _client(self) -> Any:
        # botocore alone: boto3 adds nothing here, and a quarter of a second to every command
        import botocore.session
        from botocore.config import Config

        session = botocore.session.Session()
        config = Config(
            connect_timeout=1,
            read_timeout=5,
            retries={"mode": "standard", "total_max_attempts": 2},
            s3={"addressing_style": "path"},
        )
        region = session.get_config_variable("region") or "us-east-1"
        secret = {"aws_access_key_id": self._secret.access_key, "aws_secret_access_key": self._secret.secret_key} if self._secret else {}
        return session.create_client("s3", region_name=region, endpoint_url=self._url, config=config, **secret)

    @property
    def _where(self) -> str:
        return self._url or "AWS"

    def _translated(self, error: Any, key: str) -> MlopsError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _MISSING:
            return NotFound(f"there is no object {key!r}: check the key, or write the object first")
        if code == "NoSuchBucket":
            # not NotFound: a policy that cannot be there must not look like one that was never written
            return Unavailable(f"there is no bucket {_split(key)[0]!r} for {key!r} at {self._where}: 'mlops up' makes the buckets")
        if code in _PRECONDITION:
            return _PreconditionFailed(key)
        if code in _REFUSED:
            return Unavailable(
                f"the object store at {self._where} refuses {key!r} ({code}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if status >= 500 or code in ("SlowDown", "RequestTimeout"):
            return Unavailable(f"the object store at {self._where} failed on {key!r} ({code} {status}): try again, and see its log")
        return MlopsError(f"the object store at {self._where} did not accept {key!r}: {error}")


class S3ObjectStore:
    """:class:`mlops_assets.ports.ObjectStore` in S3.

    Args:
        url: of the endpoint; ``None`` for AWS itself.
        secret: to sign with; ``None`` for what the environment has.
    """

    def __init__(self, url: str | None, secret: Credentials | None = None) -> None:
        self._s3 = _Connection(url, secret)

    def prepare(self) -> None:
        """Load now what the first call would load, so that it costs nobody half a second who waits for something else."""
        self._s3.prepare()

    def get(self, key: str) -> bytes:
        """The object's bytes; :class:`NotFound` if there is none."""
        return _get(self._s3, key)[0]

    def put(self, key: str, data: bytes) -> None:
        """Write an object, over the one that is there."""
        self._s3.call("put_object", key, Key=_split(key)[1], Body=data)

    def create(self, key: str, data: bytes) -> None:
        """Write an object that must not exist. The same bytes again are fine, other bytes raise :class:`AlreadyExists`."""
        try:
            self._s3.call("put_object", key, Key=_split(key)[1], Body=data, IfNoneMatch="*")
        except _PreconditionFailed as error:
            there = self.get(key)
            if there != data:
                raise AlreadyExists(
                    f"object {key!r} exists with {len(there)} other bytes, got {len(data)}: it is immutable, so write under a new key"
                ) from error

    def list(self, prefix: str, after: str = "") -> Sequence[ObjectInfo]:
        """The objects under ``prefix`` in the order of their keys, from the first key greater than ``after``."""
        bucket, path = _split(prefix)
        start = _safe_start(prefix, after).removeprefix(f"{bucket}/")
        found: list[ObjectInfo] = []
        page: dict[str, Any] = {"IsTruncated": True}
        more: dict[str, str] = {"StartAfter": start} if start else {}
        while page.get("IsTruncated"):
            page = self._s3.call("list_objects_v2", prefix, Prefix=path, **more)
            found += [
                ObjectInfo(f"{bucket}/{entry['Key']}", entry["ETag"].strip('"'), entry["LastModified"], entry["Size"])
                for entry in page.get("Contents", ())
            ]
            more = {"ContinuationToken": page.get("NextContinuationToken", "")}
        return sorted((entry for entry in found if entry.key > after), key=lambda entry: entry.key)

    def delete(self, key: str) -> None:
        """Delete the object if it exists."""
        self._s3.call("delete_object", key, Key=_split(key)[1])


class S3PolicyStore:
    """:class:`mlops_assets.ports.PolicyStore` in S3: one document a model, ``policies/<model>.json``.

    Args:
        url: of the endpoint; ``None`` for AWS itself.
        secret: to sign with; ``None`` for what the environment has.
    """

    def __init__(self, url: str | None, secret: Credentials | None = None) -> None:
        self._s3 = _Connection(url, secret)
        self._objects = S3ObjectStore(url, secret)

    def read(self, model: str) -> Policy:
        """The policy of ``model``; one of generation 0 if none was written yet.

        Raises:
            BadData: if the document is unreadable; it is left as it is.
            Unavailable: if S3 does not answer.
        """
        return self._read(model)[0]

    def write(self, policy: Policy, expected_generation: int) -> None:
        """Write ``policy`` if the stored one is still of ``expected_generation``.

        Raises:
            StalePolicy: if it is not, or somebody else wrote at the same time.
            BadData: if what is stored is unreadable; it is left as it is.
            Unavailable: if S3 does not answer. The write may have happened: read again.
        """
        stored, etag = self._read(policy.model)
        if stored.generation != expected_generation:
            raise _stale(policy.model, stored.generation, expected_generation)
        key = policy_key(policy.model)
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        try:
            self._s3.call("put_object", key, Key=_split(key)[1], Body=encode(policy), ContentType="application/json", **condition)
        except (_PreconditionFailed, NotFound) as error:
            # a first try whose answer was lost makes the second one fail
            now = self.read(policy.model)
            if now != policy:
                raise _stale(policy.model, now.generation, expected_generation) from error

    def models(self) -> tuple[str, ...]:
        """The models that have a policy, sorted."""
        listed = self._objects.list(f"{POLICY_BUCKET}/")
        return tuple(entry.key.removeprefix(f"{POLICY_BUCKET}/").removesuffix(".json") for entry in listed if entry.key.endswith(".json"))

    def swaps(self) -> bool:
        """Whether the store heeds ``If-Match``; without it two who change a policy at once overwrite each other. Leaves nothing behind."""
        key = f"{POLICY_BUCKET}/.probe-{uuid4().hex}"
        self._objects.put(key, b"first")
        try:
            self._s3.call("put_object", key, Key=_split(key)[1], Body=b"second", IfMatch='"0"')
        except _PreconditionFailed:
            return True
        finally:
            self._objects.delete(key)
        return False

    def _read(self, model: str) -> tuple[Policy, str]:
        key = policy_key(model)
        try:
            data, etag = _get(self._s3, key)
        except NotFound:
            return Policy(model), ""
        return decode(Policy, data, key), etag


def _safe_start(prefix: str, after: str) -> str:
    """From where to list, so that nothing after ``after`` is left out; empty for from the beginning.

    SeaweedFS lists folder by folder, as if ``/`` were the smallest character, and what follows ``a`` leaves the folder ``a/`` out.
    So the start ends before the first character below ``/``, one character earlier, and not beside a slash.

    >>> _safe_start("landing/m/", "landing/m/ab-c/1"), _safe_start("landing/m/", "landing/m/20130101T00")
    ('landing/m/a', 'landing/m/20130101T0')
    """
    if not after.startswith(prefix):
        return ""
    rest = after.removeprefix(prefix)
    end = next((place for place, character in enumerate(rest) if character < "/"), len(rest))
    end = max(end - 1, 0)
    while end > 0 and "/" in rest[end - 1 : end + 1]:
        end -= 1
    return prefix + rest[:end] if end else ""


def policy_key(model: str) -> str:
    """Where the policy of a model lies."""
    return f"{POLICY_BUCKET}/{model}.json"


def _get(s3: _Connection, key: str) -> tuple[bytes, str]:
    from botocore.exceptions import BotoCoreError

    answer = s3.call("get_object", key, Key=_split(key)[1])
    try:
        return answer["Body"].read(), answer["ETag"]
    except BotoCoreError as error:
        raise Unavailable(f"the connection broke while {key!r} was read ({error}): try again") from error


def _split(key: str) -> tuple[str, str]:
    bucket, slash, path = key.partition("/")
    if not bucket or not slash:
        raise BadData(f"key {key!r} has no bucket: expected '<bucket>/<path>', such as 'landing/flight-delay/'")
    return bucket, path


def _stale(model: str, stored: int, expected: int) -> StalePolicy:
    return StalePolicy(f"the policy of {model} is of generation {stored}, expected {expected}: read it again and decide again")
