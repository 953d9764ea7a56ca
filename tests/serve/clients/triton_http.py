"""The default calls of tritonclient over HTTP; prints the logits. Run beside a service, with tritonclient installed.

python triton_http.py HOST:PORT MODEL X.npy
"""

import json
import sys

import numpy as np
import tritonclient.http as triton

address, model, file = sys.argv[1:]
x = np.load(file)
client = triton.InferenceServerClient(address)
assert client.is_server_live()
assert client.is_server_ready()
assert client.is_model_ready(model)
assert client.get_server_metadata()["name"] == "sparring"
assert client.get_model_metadata(model)["inputs"][0]["name"] == "images"
tensor = triton.InferInput("images", list(x.shape), "FP32")
tensor.set_data_from_numpy(x)
found = [client.infer(model, [tensor]).as_numpy("logits").tolist()]
for coding in ("gzip", "deflate"):
    ways = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
    found.append(client.infer(model, [tensor], **ways).as_numpy("logits").tolist())
outputs = [triton.InferRequestedOutput("logits", binary_data=False)]
found.append(client.infer(model, [tensor], outputs=outputs, model_version="1").as_numpy("logits").tolist())
waiting = client.async_infer(model, [tensor])
found.append(waiting.get_result().as_numpy("logits").tolist())
print(json.dumps(found))
