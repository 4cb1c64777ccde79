"""What Triton is told of a release, read back by Triton's own protobuf and held against the ONNX file."""

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import onnxruntime as ort
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton_pb
from typer.testing import CliRunner

from mlops_assets.adapters.memory import MemoryObjectStore, MemoryRegistry
from mlops_assets.adapters.triton import write_entry
from mlops_assets.cli import app
from mlops_assets.core.errors import BadData, DigestMismatch, SpecError
from mlops_assets.core.triton_spec import Triton
from mlops_assets.ports import TrainingRun, model_key
from tests.serving.models import SIGNATURE, ModelFile, forest, tiny_model

ONNX_TYPES = {"tensor(float)": triton_pb.TYPE_FP32}
MODEL = "tiny"


def written(folder, model: ModelFile, release: str = "v12", triton: Triton | None = None, threads: int = 1) -> triton_pb.ModelConfig:
    path = write_entry(folder, MODEL, release, model.digest, model.data, triton or Triton(), threads)
    return text_format.Parse(path.read_text(), triton_pb.ModelConfig())


def shape_of(tensor, max_batch: int) -> list[int]:
    """What Triton expects of the model's tensor: the batch, and then ``reshape`` if there is one, else ``dims``."""
    dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
    return [-1, *dims] if max_batch else [*dims]


def test_triton_reads_it_and_it_says_what_the_spec_says(tmp_path):
    spec = Triton(max_batch=32, max_queue_delay=timedelta(microseconds=500), instances=2, device="gpu")
    read = written(tmp_path, tiny_model(), triton=spec, threads=4)
    assert (read.name, read.backend, read.max_batch_size) == (MODEL, "onnxruntime", 32)
    assert read.dynamic_batching.max_queue_delay_microseconds == 500
    assert [(group.count, group.kind) for group in read.instance_group] == [(2, triton_pb.ModelInstanceGroup.KIND_GPU)]
    assert read.parameters["intra_op_thread_count"].string_value == "4"
    assert text_format.Parse(text_format.MessageToString(read), triton_pb.ModelConfig()) == read


def test_its_tensors_are_those_of_the_onnx_file(tmp_path):
    read = written(tmp_path, tiny_model())
    session = ort.InferenceSession(str(tmp_path / MODEL / "12" / "model.onnx"))
    for told, held in ((read.input, session.get_inputs()), (read.output, session.get_outputs())):
        assert [(one.name, one.data_type) for one in told] == [(one.name, ONNX_TYPES[one.type]) for one in held]
        assert [shape_of(one, read.max_batch_size) for one in told] == [
            [-1 if not isinstance(length, int) else length for length in one.shape] for one in held
        ]


def test_it_is_warmed_with_rows_that_the_model_takes(tmp_path):
    read = written(tmp_path, tiny_model(), triton=Triton(max_batch=8))
    width = len(SIGNATURE.inputs)
    assert [(one.batch_size, list(one.inputs["features"].dims), one.inputs["features"].zero_data) for one in read.model_warmup] == [
        (1, [width], True),
        (8, [width], True),
    ]
    assert len(written(tmp_path / "one", tiny_model(), triton=Triton(max_batch=1)).model_warmup) == 1


def test_the_release_that_was_written_last_is_the_one_that_is_served_and_says_what_it_is(tmp_path):
    older, newer = tiny_model(), tiny_model(bias=1.0)
    written(tmp_path, older, "v11")
    read = written(tmp_path, newer, "v12")
    assert list(read.version_policy.specific.versions) == [12]
    assert read.parameters["mlops_release"].string_value == "v12"
    assert read.parameters["mlops_sha256"].string_value == newer.digest
    assert (tmp_path / MODEL / "11" / "model.onnx").read_bytes() == older.data
    assert written(tmp_path, newer, "v12") == read
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["config.pbtxt", "model.onnx", "model.onnx"]


@pytest.mark.parametrize(
    ("model", "digest", "error", "told"),
    [
        (tiny_model(), "0" * 64, DigestMismatch, "expected 000"),
        (tiny_model(replace(SIGNATURE, model="other")), None, BadData, "of the model 'other', expected 'tiny'"),
        (tiny_model(width=4), None, BadData, "of width 4 .* expected .* of width 3"),
        (tiny_model(output="probability"), None, BadData, "gives .*probability.* expected .*score"),
        (ModelFile(b"no model"), None, BadData, "cannot open it"),
    ],
    ids=["changed since", "another model", "another width", "another output", "no ONNX"],
)
def test_what_triton_could_not_serve_is_not_written(tmp_path, model, digest, error, told):
    with pytest.raises(error, match=told):
        write_entry(tmp_path, MODEL, "v1", digest or model.digest, model.data, Triton(), 1)
    assert not list(tmp_path.rglob("*.pbtxt"))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"max_batch": 0}, "triton.max_batch: got 0, expected at least 1"),
        ({"instances": 0}, "triton.instances"),
        ({"device": "tpu"}, "triton.device: got 'tpu', expected cpu or gpu"),
        ({"max_queue_delay": timedelta(seconds=2)}, r"triton.max_queue_delay: got 2 s"),
    ],
)
def test_a_wrong_spec_is_refused_by_its_field(wrong, told):
    with pytest.raises(SpecError, match=told):
        Triton(**wrong)


def test_trees_as_this_project_exports_them_are_written_too(tmp_path):
    model = forest(trees=5, width=4)
    read = text_format.Parse(
        write_entry(tmp_path, "forest", "v1", model.digest, model.data, Triton(), 1).read_text(), triton_pb.ModelConfig()
    )
    assert list(read.input[0].dims) == [4]


def test_the_command_writes_a_registered_release_as_its_defs_yaml_says(tmp_path, monkeypatch):
    objects, registry, model = MemoryObjectStore(), MemoryRegistry(), tiny_model(replace(SIGNATURE, model="flight-delay"))
    run = registry.log_run(TrainingRun("flight-delay", "t", {}, {}, {"training_key": "k"}), {})
    registry.register("flight-delay", run, model.digest, {})
    objects.create(model_key("flight-delay", "v1"), model.data)
    monkeypatch.setattr("mlops_assets.adapters.local.local_platform", lambda: SimpleNamespace(objects=objects, registry=registry))

    done = CliRunner().invoke(app, ["triton-repository", "flight-delay", "v1", str(tmp_path)])
    assert (done.exit_code, done.output.strip()) == (0, f"wrote {tmp_path / 'flight-delay' / 'config.pbtxt'}")
    read = text_format.Parse((tmp_path / "flight-delay" / "config.pbtxt").read_text(), triton_pb.ModelConfig())
    assert (read.name, read.max_batch_size) == ("flight-delay", Triton().max_batch)

    assert CliRunner().invoke(app, ["triton-repository", "flight-delay", "v7", str(tmp_path)]).exit_code == 1
