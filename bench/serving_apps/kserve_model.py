"""The model as a KServe custom predictor. MODEL is in the environment; the arguments are KServe's."""

import argparse
import logging
import os

import numpy as np
import onnxruntime as ort
from kserve import Model, ModelServer, model_server


class Peer(Model):
    def __init__(self) -> None:
        super().__init__("bench")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        scores = self.session.run(["score"], {"features": np.array(payload["instances"], dtype=np.float32)})[0]
        return {"predictions": scores.tolist()}


if __name__ == "__main__":
    argparse.ArgumentParser(parents=[model_server.parser]).parse_args()
    logging.disable(logging.INFO)
    ModelServer().start([Peer()])
