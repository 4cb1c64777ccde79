"""A release as an entry of a Triton model repository: ``<folder>/<model>/config.pbtxt`` and ``<folder>/<model>/<version>/model.onnx``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from mlops_assets.adapters.onnx_model import OnnxModel
from mlops_assets.adapters.whole_file import replace_file
from mlops_assets.core.errors import BadData, DigestMismatch
from mlops_assets.core.policy import release_number
from mlops_assets.core.signature import INPUT_NAME, SCORE_NAME
from mlops_assets.core.triton_spec import Triton

_TYPES = {"tensor(float)": "TYPE_FP32"}
_KINDS = {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}


def entry(model: str, release: str, digest: str, data: bytes, triton: Triton, threads: int) -> Mapping[str, bytes]:
    """The files of a release's entry by their places in the repository, the model before the configuration that names it.

    Args:
        digest: the file's SHA-256, as it was registered; a person finds it in the configuration.
        data: the ONNX file.
        threads: the most that one prediction may use.

    Raises:
        DigestMismatch: if the file is not what was registered.
        BadData: if it is no model of ours, or of another model.
    """
    got = hashlib.sha256(data).hexdigest()
    if got != digest:
        raise DigestMismatch(f"{release} of {model}: got sha256 {got}, expected {digest}: its file was changed since; restore it")
    text = config(model, release, digest, OnnxModel.load(data), triton, threads)
    return {f"{model}/{release_number(release)}/model.onnx": data, f"{model}/config.pbtxt": text.encode()}


def write_entry(folder: Path, model: str, release: str, digest: str, data: bytes, triton: Triton, threads: int) -> Path:
    """Write the entry of a release, its file before the configuration that names it; returns the configuration's path.

    Harmless if it is there. Of several releases in one folder the one that was written last is served: let each release have a folder, as
    it has a process, so that two of them can answer during a canary.

    Args:
        folder: of the repository, as ``tritonserver --model-repository`` is told. The other arguments, and what is raised, are those of
            :func:`entry`.
    """
    for place, content in entry(model, release, digest, data, triton, threads).items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    return path


def config(model: str, release: str, digest: str, loaded: OnnxModel, triton: Triton, threads: int) -> str:
    """The configuration of a release, from what its file takes and gives.

    The file's first dimension is Triton's batch. The score has no other, which Triton is told as one of 1 that is taken away again.

    Raises:
        BadData: if the file is of another model, or takes or gives something else than a release does.
    """
    if loaded.signature.model != model:
        raise BadData(f"{release}: its file is of the model {loaded.signature.model!r}, expected {model!r}: check what was registered")
    width = _require_tensors(release, loaded)
    count, kind, delay = triton.instances, _KINDS[triton.device], triton.max_queue_delay // timedelta(microseconds=1)
    warm = "\n".join(_warm_up(rows, width) for rows in dict.fromkeys((1, triton.max_batch)))
    tags = {"mlops_release": release, "mlops_sha256": digest}
    return f"""name: {_text(model)}
backend: "onnxruntime"
max_batch_size: {triton.max_batch}
version_policy {{ specific {{ versions: [ {release_number(release)} ] }} }}
input [ {{ name: {_text(INPUT_NAME)} data_type: TYPE_FP32 dims: [ {width} ] }} ]
output [ {{ name: {_text(SCORE_NAME)} data_type: TYPE_FP32 dims: [ 1 ] reshape {{ shape: [ ] }} }} ]
dynamic_batching {{ max_queue_delay_microseconds: {delay} }}
instance_group [ {{ count: {count} kind: {kind} }} ]
{warm}
{_parameter("intra_op_thread_count", str(threads))}
{chr(10).join(_parameter(name, value) for name, value in tags.items())}
"""


def _require_tensors(release: str, loaded: OnnxModel) -> int:
    """How many features the file takes; :class:`BadData` if it is not one float input by rows and one float score a row."""
    inputs = [(told.name, _TYPES.get(told.type, told.type), len(told.shape)) for told in loaded.session.get_inputs()]
    outputs = [(told.name, _TYPES.get(told.type, told.type), len(told.shape)) for told in loaded.session.get_outputs()]
    wanted = [(INPUT_NAME, "TYPE_FP32", 2)], [(SCORE_NAME, "TYPE_FP32", 1)]
    width, signed = loaded.session.get_inputs()[0].shape[-1], len(loaded.signature.inputs)
    if (inputs, outputs) != wanted or width != signed:
        raise BadData(
            f"{release}: its file takes {inputs} of width {width} and gives {outputs}, expected {wanted[0]} of width {signed} and "
            f"{wanted[1]} (name, type, dimensions): export it anew"
        )
    return signed


def _warm_up(rows: int, width: int) -> str:
    """A first answer takes longer than all others: Triton gives it before it says that the model is ready."""
    value = f"{{ data_type: TYPE_FP32 dims: [ {width} ] zero_data: true }}"
    return f'model_warmup [ {{ name: "{rows} rows" batch_size: {rows} inputs {{ key: {_text(INPUT_NAME)} value {value} }} }} ]'


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}"


def _text(value: str) -> str:
    """A string as protobuf's text format has it, which for names is as JSON does."""
    return json.dumps(value)
