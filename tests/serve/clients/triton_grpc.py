"""The default calls of tritonclient over gRPC; prints the logits.

python triton_grpc.py HOST:PORT MODEL X.npy
"""

import json
import sys

import numpy as np
import tritonclient.grpc as triton

address, model, file = sys.argv[1:]
x = np.load(file)
client = triton.InferenceServerClient(address)
assert client.is_server_live()
assert client.is_server_ready()
assert client.is_model_ready(model)
assert not client.is_model_ready("none")
assert client.get_server_metadata().name == "sparring"
assert client.get_model_metadata(model).inputs[0].name == "images"
tensor = triton.InferInput("images", list(x.shape), "FP32")
tensor.set_data_from_numpy(x)
found = [client.infer(model, [tensor]).as_numpy("logits").tolist()]
outputs = [triton.InferRequestedOutput("logits")]
found.append(
    client.infer(model, [tensor], outputs=outputs, model_version="1", request_id="mine").as_numpy("logits").tolist()
)
found.append(client.infer(model, [tensor], compression_algorithm="gzip").as_numpy("logits").tolist())
print(json.dumps(found))
