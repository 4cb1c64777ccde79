"""KServe's own client: ``kserve_client.py URL ROWS.json`` prints the scores of the rows, as JSON tensors and as binary ones."""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


async def ask(url: str, rows: np.ndarray) -> list[list[float]]:
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=1, timeout=20))
    ready = [await client.is_server_live(url), await client.is_server_ready(url), await client.is_model_ready(url, "bench")]
    if ready != [True, True, True]:
        raise SystemExit(f"got {ready} for server live, server ready and model ready")
    found = []
    for binary in (False, True):
        tensor = InferInput("features", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows, binary_data=binary)
        request = InferRequest("bench", [tensor], request_outputs=[RequestedOutput("score", {"binary_data": binary})])
        answer = await client.infer(url, request, model_name="bench")
        found.append(next(output for output in answer.outputs if output.name == "score").as_numpy().ravel().tolist())
    await client.close()
    return found


print(json.dumps(asyncio.run(ask(sys.argv[1], np.array(json.loads(Path(sys.argv[2]).read_text()), dtype=np.float32)))))
