"""S3 as it really answers: SeaweedFS. What it shares with its in-memory twin is in test_contracts."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import uuid4

import botocore.session
import pytest

from mlops_assets.adapters.s3 import S3ObjectStore, S3PolicyStore, policy_key
from mlops_assets.core.errors import AlreadyExists, BadData, NotFound, StalePolicy, Unavailable
from mlops_assets.core.policy import Policy
from mlops_assets.settings import HOST
from tests.servers import free_port


@pytest.fixture
def objects(s3):
    return S3ObjectStore(s3.s3_url)


@pytest.fixture
def policies(s3):
    return S3PolicyStore(s3.s3_url)


@pytest.fixture
def model():
    return f"m-{uuid4().hex[:12]}"


def together(writers, work):
    """Run ``work(number)`` in all writers at once; returns what each returned or raised."""
    barrier = threading.Barrier(writers)

    def one(number):
        barrier.wait()
        try:
            return work(number)
        except (AlreadyExists, StalePolicy) as error:
            return error

    with ThreadPoolExecutor(writers) as pool:
        return list(pool.map(one, range(writers)))


@pytest.mark.parametrize("bucket", ["models", "evidence"])
def test_of_eight_writers_that_create_one_object_one_wins(s3, model, bucket):
    key = f"{bucket}/{model}/v1/model.onnx"
    stores = [S3ObjectStore(s3.s3_url) for _ in range(8)]
    results = together(8, lambda number: stores[number].create(key, b"model %d" % number))
    winners = [number for number, result in enumerate(results) if result is None]
    assert len(winners) == 1
    assert stores[0].get(key) == b"model %d" % winners[0]


def test_of_eight_writers_that_change_one_policy_one_wins(s3, model):
    stores = [S3PolicyStore(s3.s3_url) for _ in range(8)]
    for generation in range(3):
        changes = [Policy(model, generation + 1, champions=(f"v{number}",)) for number in range(8)]
        results = together(8, lambda number, to=changes, since=generation: stores[number].write(to[number], since))
        winners = [number for number, result in enumerate(results) if result is None]
        assert len(winners) == 1
        assert stores[0].read(model) == changes[winners[0]]


def test_more_objects_than_fit_a_page_are_listed_in_order_whatever_the_folders(objects, model):
    folders = ("a/", "a-b/", "a.", "")
    keys = sorted(f"landing/{model}/{folders[i % 4]}{i:05d}" for i in range(1_203))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: objects.put(key, b"x"), keys))
    assert [entry.key for entry in objects.list(f"landing/{model}/")] == keys
    for after in (f"landing/{model}/00998", f"landing/{model}/a-b/00801", f"landing/{model}/a.0", f"landing/{model}/", "landing/"):
        assert [entry.key for entry in objects.list(f"landing/{model}/", after)] == [key for key in keys if key > after]


def test_an_object_of_the_models_bucket_is_not_overwritten_by_a_create(objects, model):
    key = f"models/{model}/v1/model.onnx"
    objects.create(key, b"first")
    with pytest.raises(AlreadyExists, match="immutable"):
        objects.create(key, b"other")
    assert objects.get(key) == b"first"


def test_large_objects_survive_the_way(objects, model):
    data = bytes(range(256)) * 80_000
    objects.put(f"landing/{model}/large", data)
    assert objects.get(f"landing/{model}/large") == data


def test_a_missing_bucket_is_no_empty_policy(objects):
    with pytest.raises(Unavailable, match="mlops up"):
        objects.get("nowhere/a")
    with pytest.raises(Unavailable, match="mlops up"):
        objects.list("nowhere/")


def test_a_server_that_is_down_is_unavailable_within_five_seconds(s3):
    began = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        S3ObjectStore(f"http://{HOST}:{free_port()}").get("landing/a")
    with pytest.raises(Unavailable):
        S3PolicyStore(f"http://{HOST}:{free_port()}").read("a")
    assert time.monotonic() - began < 10


def test_wrong_credentials_are_named_without_being_shown(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    with pytest.raises(Unavailable, match="refuses") as raised:
        S3ObjectStore(s3.s3_url).get("landing/a")
    assert "very-secret" not in str(raised.value)


@pytest.mark.parametrize(
    "document",
    [b"", b"{not json", b"[]", b'{"version": 2, "policy": {}}', b'{"version": 1, "policy": {"model": 1}}'],
    ids=["empty", "broken", "list", "newer", "wrong type"],
)
def test_an_unreadable_policy_is_reported_and_never_overwritten(objects, policies, model, document):
    objects.put(policy_key(model), document)
    with pytest.raises(BadData, match=model):
        policies.read(model)
    with pytest.raises(BadData):
        policies.write(Policy(model, 1), 0)
    assert objects.get(policy_key(model)) == document


def test_a_policy_field_that_this_program_does_not_know_is_not_lost(objects, policies, model):
    policies.write(Policy(model, 1), 0)
    document = objects.get(policy_key(model)).replace(b'"champions"', b'"colour": "red", "champions"')
    objects.put(policy_key(model), document)
    with pytest.raises(BadData, match=r"policy\.colour"):
        policies.write(Policy(model, 2), 1)
    assert objects.get(policy_key(model)) == document


def test_a_write_that_had_happened_already_is_no_conflict(s3, policies, model, monkeypatch):
    real = S3PolicyStore(s3.s3_url)
    sent = policies._s3.call

    def answer_lost(operation, key, **parameters):
        if operation == "put_object":
            sent(operation, key, **parameters)
        return sent(operation, key, **parameters)

    monkeypatch.setattr(policies._s3, "call", answer_lost)
    policies.write(Policy(model, 1), 0)
    assert real.read(model) == Policy(model, 1)


def test_earlier_generations_are_kept_as_versions(s3, policies, model):
    policies.write(Policy(model, 1), 0)
    policies.write(replace(Policy(model, 2), champions=("v1",)), 1)
    client = botocore.session.Session().create_client("s3", endpoint_url=s3.s3_url, region_name="us-east-1")
    versions = client.list_object_versions(Bucket="policies", Prefix=f"{model}.json")["Versions"]
    assert len(versions) == 2


def test_a_missing_object_is_not_found(objects, model):
    with pytest.raises(NotFound, match=model):
        objects.get(f"landing/{model}/none")
