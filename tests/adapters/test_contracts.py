"""What a port promises holds for its real adapter and for its in-memory twin alike."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from mlops_assets.adapters.memory import MemoryObjectStore, MemoryPolicyStore, MemoryRegistry
from mlops_assets.adapters.mlflow import MlflowRegistry
from mlops_assets.adapters.s3 import S3ObjectStore, S3PolicyStore
from mlops_assets.core import policy_changes
from mlops_assets.core.errors import AlreadyExists, BadData, NotFound, StalePolicy
from mlops_assets.core.policy import Author, Policy
from mlops_assets.ports import TrainingRun

NOW = datetime(2026, 11, 23, 12, 0, 0, 5, tzinfo=UTC)
ADA = Author("ada", "a test")
DIGEST = "d" * 64


@pytest.fixture(params=["memory", "s3"])
def objects(request):
    return MemoryObjectStore() if request.param == "memory" else S3ObjectStore(request.getfixturevalue("s3").s3_url)


@pytest.fixture(params=["memory", "s3"])
def policies(request):
    return MemoryPolicyStore() if request.param == "memory" else S3PolicyStore(request.getfixturevalue("s3").s3_url)


@pytest.fixture(params=["memory", "mlflow"])
def registry(request):
    return MemoryRegistry() if request.param == "memory" else MlflowRegistry(request.getfixturevalue("mlflow_server").mlflow_url)


@pytest.fixture
def model():
    return f"m-{uuid4().hex[:12]}"


class TestObjectStore:
    def test_what_is_put_is_got_and_may_be_put_over(self, objects, model):
        objects.put(f"landing/{model}/a", b"one")
        objects.put(f"landing/{model}/a", b"two")
        assert objects.get(f"landing/{model}/a") == b"two"

    def test_an_empty_object_is_an_object(self, objects, model):
        objects.create(f"landing/{model}/a", b"")
        assert objects.get(f"landing/{model}/a") == b""
        assert [entry.size for entry in objects.list(f"landing/{model}/")] == [0]

    def test_what_is_not_there_is_not_found(self, objects, model):
        with pytest.raises(NotFound, match=model):
            objects.get(f"landing/{model}/a")

    @pytest.mark.parametrize("bucket", ["evidence", "models"])
    def test_an_object_is_created_once_and_the_same_bytes_again_are_fine(self, objects, model, bucket):
        objects.create(f"{bucket}/{model}/a", b"one")
        objects.create(f"{bucket}/{model}/a", b"one")
        with pytest.raises(AlreadyExists, match=model):
            objects.create(f"{bucket}/{model}/a", b"two")
        assert objects.get(f"{bucket}/{model}/a") == b"one"

    def test_what_is_deleted_is_gone_and_deleting_again_is_harmless(self, objects, model):
        objects.put(f"landing/{model}/a", b"one")
        objects.delete(f"landing/{model}/a")
        objects.delete(f"landing/{model}/a")
        with pytest.raises(NotFound):
            objects.get(f"landing/{model}/a")
        objects.create(f"landing/{model}/a", b"two")
        assert objects.get(f"landing/{model}/a") == b"two"

    def test_a_listing_is_in_the_order_of_the_keys_whatever_the_folders(self, objects, model):
        keys = [f"landing/{model}/{name}" for name in ("a-b/1", "a/1", "a/2", "a.c", "B", "b", "a", "é")]
        for key in keys:
            objects.put(key, key.encode())
        assert [entry.key for entry in objects.list(f"landing/{model}/")] == sorted(keys)

    @pytest.mark.parametrize("after", ["", "a", "a-b/1", "a/", "a/1", "a/15", "a.c", "aa/b-", "b", "zz"])
    def test_a_listing_begins_after_a_key_that_need_not_exist(self, objects, model, after):
        keys = [f"landing/{model}/{name}" for name in ("a-b/1", "a/1", "a/2", "a.c", "b")]
        for key in keys:
            objects.put(key, b"x")
        start = f"landing/{model}/{after}"
        assert [entry.key for entry in objects.list(f"landing/{model}/", start)] == sorted(key for key in keys if key > start)

    def test_a_prefix_needs_not_end_with_a_folder_and_others_are_not_listed(self, objects, model):
        for name in ("day-1", "day-2", "hour-1"):
            objects.put(f"landing/{model}/{name}", b"x")
        objects.put(f"landing/{model}-other/day-3", b"x")
        assert [entry.key[-5:] for entry in objects.list(f"landing/{model}/day")] == ["day-1", "day-2"]
        assert objects.list(f"landing/{model}/none") == []

    def test_a_listing_says_when_and_what_size_and_its_etag_changes_with_the_bytes(self, objects, model):
        objects.put(f"landing/{model}/a", b"one")
        (before,) = objects.list(f"landing/{model}/")
        objects.put(f"landing/{model}/a", b"three")
        (after,) = objects.list(f"landing/{model}/")
        assert (before.size, after.size) == (3, 5)
        assert before.etag != after.etag
        assert abs(datetime.now(UTC) - after.modified) < timedelta(minutes=1)

    @pytest.mark.parametrize("key", ["landing", "", "/a"])
    def test_a_key_without_a_bucket_is_refused(self, objects, key):
        with pytest.raises(BadData, match="bucket"):
            objects.get(key)


class TestPolicyStore:
    def test_a_model_without_policy_has_an_empty_one_of_generation_zero(self, policies, model):
        assert policies.read(model) == Policy(model)
        assert model not in policies.models()

    def test_what_is_written_is_read_and_its_model_is_listed(self, policies, model):
        written = policy_changes.register(Policy(model), "v1", DIGEST, ADA, NOW)
        policies.write(written, 0)
        assert policies.read(model) == written
        assert model in policies.models()
        assert list(policies.models()) == sorted(policies.models())

    def test_of_two_changes_of_one_generation_the_second_is_stale(self, policies, model):
        first = policy_changes.register(Policy(model), "v1", DIGEST, ADA, NOW)
        second = policy_changes.register(Policy(model), "v2", DIGEST, ADA, NOW)
        policies.write(first, 0)
        with pytest.raises(StalePolicy, match="generation 1, expected 0"):
            policies.write(second, 0)
        assert policies.read(model) == first

    def test_a_change_of_a_generation_that_is_not_there_yet_is_stale(self, policies, model):
        with pytest.raises(StalePolicy):
            policies.write(Policy(model, 5), 4)
        assert policies.read(model).generation == 0

    def test_generations_follow_each_other(self, policies, model):
        for generation in range(3):
            policies.write(replace(Policy(model), generation=generation + 1), generation)
        assert policies.read(model).generation == 3


def training(model, key=None, **metrics):
    tags = {"training_key": key, "commit": "abc"} if key else {}
    return TrainingRun(model, "0123456789abcdef", {"num_leaves": 31, "rate": 0.1}, metrics or {"auc": 0.7}, tags)


class TestRegistry:
    def test_a_run_with_the_same_training_key_is_not_doubled(self, registry, model):
        first = registry.log_run(training(model, "k1"), {"report.json": b"{}"})
        assert registry.log_run(training(model, "k1"), {"report.json": b"{}"}) == first
        assert registry.log_run(training(model, "k2"), {}) != first
        assert registry.log_run(training(model), {}) != registry.log_run(training(model), {})

    def test_another_model_may_have_the_same_training_key(self, registry, model):
        assert registry.log_run(training(model, "k"), {}) != registry.log_run(training(f"{model}-b", "k"), {})

    def test_a_version_is_made_once_for_its_run_and_digest(self, registry, model):
        run = registry.log_run(training(model, "k"), {})
        made = registry.register(model, run, DIGEST, {"gate": "improve"})
        assert registry.register(model, run, DIGEST, {"gate": "improve"}) == made
        assert (made.release, made.run_id, made.digest, made.tags) == ("v1", run, DIGEST, {"gate": "improve"})
        assert made.uri == f"models/{model}/v1/model.onnx"
        assert registry.register(model, run, "e" * 64, {}).release == "v2"
        assert registry.release(model, "v1") == made

    def test_a_version_of_a_run_that_does_not_exist_is_refused(self, registry, model):
        with pytest.raises(NotFound):
            registry.register(model, "0" * 32, DIGEST, {})

    @pytest.mark.parametrize("release", ["v9", "latest", "", "v1.2"])
    def test_a_release_that_does_not_exist_is_not_found(self, registry, model, release):
        registry.register(model, registry.log_run(training(model, "k"), {}), DIGEST, {})
        with pytest.raises(NotFound):
            registry.release(model, release)
        with pytest.raises(NotFound):
            registry.release(f"{model}-unknown", release)
        with pytest.raises(NotFound):
            registry.annotate(model, release, {"stage": "Staging"})
        with pytest.raises(NotFound):
            registry.set_aliases(model, {"champion": release})

    def test_tags_are_added_and_changed(self, registry, model):
        registry.register(model, registry.log_run(training(model, "k"), {}), DIGEST, {"gate": "improve"})
        registry.annotate(model, "v1", {"stage": "Staging", "generation": "3"})
        registry.annotate(model, "v1", {"stage": "Production"})
        assert registry.release(model, "v1").tags == {"gate": "improve", "stage": "Production", "generation": "3"}

    def test_aliases_move_and_go(self, registry, model):
        run = registry.log_run(training(model, "k"), {})
        for digest in ("1" * 64, "2" * 64):
            registry.register(model, run, digest, {})
        registry.set_aliases(model, {"champion": "v1", "staging": "v2"})
        assert registry.aliases(model) == {"champion": "v1", "staging": "v2"}
        registry.set_aliases(model, {"champion": "v2", "staging": None})
        registry.set_aliases(model, {"champion": "v2", "staging": None})
        assert registry.aliases(model) == {"champion": "v2"}

    def test_a_model_that_was_never_registered_has_no_aliases(self, registry, model):
        assert registry.aliases(model) == {}
        registry.set_aliases(model, {"champion": None})
