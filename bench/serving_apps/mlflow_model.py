"""The model as MLflow packs one: ``mlflow_model.py MODEL FOLDER`` saves it; MLflow loads this very file to serve it."""

import sys

import mlflow
import numpy as np
import onnxruntime as ort


class Peer(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(context.artifacts["model"], options, providers=["CPUExecutionProvider"])

    def predict(self, context, model_input, params=None):
        return self.session.run(["score"], {"features": np.asarray(model_input, dtype=np.float32)})[0]


if __name__ == "__main__":
    mlflow.pyfunc.save_model(sys.argv[2], python_model=__file__, artifacts={"model": sys.argv[1]}, pip_requirements=["onnxruntime"])
else:
    mlflow.models.set_model(Peer())
