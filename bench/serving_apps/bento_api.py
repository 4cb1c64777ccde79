"""The model as BentoML's documentation serves one: a method with ``@bentoml.api``. MODEL is in the environment."""

import os

import bentoml
import numpy as np
import onnxruntime as ort


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Peer:
    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api
    def predict(self, rows: list[list[float]]) -> list[float]:
        return self.session.run(["score"], {"features": np.array(rows, dtype=np.float32)})[0].tolist()
