"""The default calls of kserve's clients over REST and gRPC; prints the logits.

python kserve_both.py HOST:PORT,HOST:GRPC_PORT MODEL X.npy
"""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

addresses, model, file = sys.argv[1:]
http, grpc = addresses.split(",")
x = np.load(file)


def request() -> InferRequest:
    tensor = InferInput(name="images", shape=list(x.shape), datatype="FP32")
    tensor.set_data_from_numpy(x)
    return InferRequest(model_name=model, infer_inputs=[tensor])


def logits(response) -> list:
    return next(o for o in response.outputs if o.name == "logits").as_numpy().tolist()


async def main() -> None:
    rest = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    base = f"http://{http}"
    assert await rest.is_server_live(base)
    assert await rest.is_server_ready(base)
    assert await rest.is_model_ready(base, model)
    found = [logits(await rest.infer(base, request(), model_name=model))]
    await rest.close()
    client = InferenceGRPCClient(grpc)
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready(model)
    found.append(logits(await client.infer(request())))
    await client.close()
    print(json.dumps(found))


asyncio.run(main())
