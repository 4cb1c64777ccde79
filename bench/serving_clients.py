"""The clients of MLServer and of KServe, from their own environments, ask ours: do they get the model's scores, to the bit?"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from bench.serving_peers import APPS, kserve_python, mlserver_python


def by_kserve(port: int, rows: np.ndarray, work: Path) -> list[np.ndarray]:
    """The scores that KServe's client gets, by JSON and by binary tensors."""
    asked = work / "rows.json"
    asked.write_text(json.dumps(rows.tolist()))
    command = [str(kserve_python()), str(APPS / "kserve_client.py"), f"http://127.0.0.1:{port}", str(asked)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [np.array(scores, dtype=np.float32) for scores in json.loads(done.stdout.splitlines()[-1])]


def by_mlserver(port: int, rows: np.ndarray, work: Path) -> list[np.ndarray]:
    """The scores that ``mlserver infer`` gets, with a request for each row."""
    asked, answered = work / "requests.jsonl", work / "answers.jsonl"
    tensors = [{"name": "features", "shape": [1, len(row)], "datatype": "FP32", "data": row} for row in rows.tolist()]
    asked.write_text("".join(json.dumps({"id": str(place), "inputs": [tensor]}) + "\n" for place, tensor in enumerate(tensors)))
    mlserver = str(mlserver_python().with_name("mlserver"))
    command = [mlserver, "infer", "-u", f"127.0.0.1:{port}", "-m", "bench", "-i", str(asked), "-o", str(answered), "-w", "1"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    found = {answer["id"]: answer["outputs"] for answer in map(json.loads, answered.read_text().splitlines())}
    scores = [next(output["data"][0] for output in found[str(place)] if output["name"] == "score") for place in range(len(rows))]
    return [np.array(scores, dtype=np.float32)]


CLIENTS: Mapping[str, Callable[[int, np.ndarray, Path], list[np.ndarray]]] = {
    "KServe's client": by_kserve,
    "MLServer's client": by_mlserver,
}


def agreement(client: str, port: int, rows: np.ndarray, expected: np.ndarray, work: Path) -> float:
    """The share of the scores that are ``expected``, to the bit."""
    got = CLIENTS[client](port, rows, work)
    return float(np.mean([answer.tobytes() == wanted.tobytes() for scores in got for answer, wanted in zip(scores, expected, strict=True)]))
