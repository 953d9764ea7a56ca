#!/usr/bin/env bash
# ray[serve] 2.60.0, RAY_SERVE_ENABLE_HA_PROXY=1
# Expected: a deployment with min_replicas 0 keeps its only replica while a client asks it twenty times a second, all the time.
# Seen:     a replica counts what is open at the moments at which it looks, and requests of a millisecond hardly ever are: after
#           downscale_delay_s it is taken away in the midst of the requests, and one of them waits for a new one to be made.
# Ours:     serve/scaling.py, tests/serve/test_scaling.py: a replica tells the mean of open requests over all of the time.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check "ray[serve]==2.60.0"
export RAY_USAGE_STATS_ENABLED=0 RAY_SERVE_ENABLE_HA_PROXY=1 RAY_SERVE_THROUGHPUT_OPTIMIZED=1
cat > "$work/app.py" <<'PY'
import os
import sys
import time
import urllib.request

import ray
from ray import serve


@serve.deployment(
    autoscaling_config={
        "min_replicas": 0,
        "max_replicas": 1,
        "initial_replicas": 1,
        "target_ongoing_requests": 2,
        "look_back_period_s": 3,
        "metrics_interval_s": 1,
        "downscale_delay_s": 10,
    }
)
class Quick:
    async def __call__(self, request):
        return str(os.getpid())


ray.init(address="local", include_dashboard=False, num_cpus=2, object_store_memory=256 * 2**20, log_to_driver=False)
serve.start(http_options={"port": 18765})
serve.run(Quick.bind(), name="quick")
pids, longest, began = [], 0.0, time.monotonic()
while time.monotonic() - began < 75:
    started = time.monotonic()
    pid = urllib.request.urlopen("http://127.0.0.1:18765/", timeout=60).read().decode()
    longest = max(longest, time.monotonic() - started)
    if pid not in pids:
        pids.append(pid)
        print(f"after {time.monotonic() - began:.0f} s: replica number {len(pids)} answers", flush=True)
    time.sleep(0.05)
print(f"replicas that answered one steady client in 75 s: {len(pids)}; longest wait {longest:.1f} s")
serve.shutdown()
ray.shutdown()
sys.exit(len(pids) == 1)
PY
"$work/env/bin/python" "$work/app.py"
