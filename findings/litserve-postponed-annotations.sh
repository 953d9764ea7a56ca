#!/usr/bin/env bash
# litserve 0.2.19
# Expected: an API answers the same requests whether its file evaluates annotations at once or keeps them as text
#           (from __future__ import annotations), as FastAPI beneath it does.
# Seen:     with annotations as text, `decode_request(self, request: dict)` makes the request a query parameter: every POST is answered with 422,
#           "loc": ["query", "request"], "Field required". Without that import, or without the annotation, the same class answers 200.
# Ours:     benchmarks/serve_litserve.py leaves that one annotation out.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check litserve==0.2.19
for kind in plain postponed; do
	{
		[ $kind = plain ] || echo "from __future__ import annotations"
		cat <<'PY'
import sys

import litserve


class Api(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request: dict):
        return request["input"]

    def predict(self, x):
        return 2 * x

    def encode_response(self, output):
        return {"output": output}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu")
    server.run(port=int(sys.argv[1]), log_level="error", generate_client_file=False)
PY
	} > $kind.py
	cat > ask.py <<'PY'
import json, socket, subprocess, sys, time, urllib.error, urllib.request

kind = sys.argv[1]
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
server = subprocess.Popen([sys.executable, f"{kind}.py", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    for _ in range(120):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
            break
        except OSError:
            time.sleep(0.5)
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/predict", json.dumps({"input": 2}).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            print(answer.status, answer.read().decode())
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode())
finally:
    server.terminate()
    server.wait()
PY
	env/bin/python ask.py $kind | tee $kind.out | sed "s/^/$kind: /"
done
grep -q '^200 {"output":4}' plain.out
grep -q '^422 .*"loc":\["query","request"\]' postponed.out
echo "as described"
