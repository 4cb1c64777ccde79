"""The least that can answer: an ASGI application without checks, metrics or log. ``bare.py MODEL PORT``."""

import sys

import msgspec
import numpy as np
import onnxruntime as ort
import uvicorn

options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])


async def application(scope, receive, send):
    inputs = msgspec.json.decode((await receive())["body"])["inputs"] if scope["method"] == "POST" else None
    answer = b"{}"
    if inputs is not None:
        score = session.run(["score"], {"features": np.array([[*inputs.values()]], dtype=np.float32)})[0][0]
        answer = msgspec.json.encode({"score": float(score)})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    quiet = {"log_config": None, "access_log": False, "lifespan": "off", "loop": "uvloop", "http": "httptools", "ws": "none"}
    uvicorn.run(application, host="127.0.0.1", port=int(sys.argv[2]), **quiet)
