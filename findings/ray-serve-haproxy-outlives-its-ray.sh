#!/usr/bin/env bash
# ray[serve] 2.60.0, RAY_SERVE_ENABLE_HA_PROXY=1
# Expected: when the process that started Ray and Serve is killed, the port is free once Ray's processes have ended, as without HAProxy.
# Seen:     Ray's processes end, HAProxy stays for good: it keeps the port, and answers 500 on it.
# Ours:     cluster/serving/balancer.py, tests/cluster/serving/test_balancer.py: HAProxy is started so that it ends with its parent.
set -euo pipefail
work=$(mktemp -d)
python3 -m venv "$work/env"
trap 'pkill -f "$work/env/.*haproxy" || true; rm -rf "$work"' EXIT
"$work/env/bin/pip" install --quiet --disable-pip-version-check "ray[serve]==2.60.0"
export RAY_USAGE_STATS_ENABLED=0 RAY_SERVE_ENABLE_HA_PROXY=1
cat > "$work/app.py" <<'PY'
import time

import ray
from ray import serve


@serve.deployment
class Hello:
    async def __call__(self, request):
        return "hello"


ray.init(address="local", include_dashboard=False, num_cpus=2, object_store_memory=256 * 2**20, log_to_driver=False)
serve.start(http_options={"port": 18766})
serve.run(Hello.bind(), name="hello")
print("ready", flush=True)
time.sleep(600)
PY
"$work/env/bin/python" "$work/app.py" > "$work/said.txt" 2> /dev/null &
driver=$!
for _ in $(seq 120); do grep -q ready "$work/said.txt" && break; sleep 1; done
ask() { curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}' http://127.0.0.1:18766/ || true; }
echo "before: $(ask)"
kill -9 "$driver"
sleep 120
left=$(pgrep -f "$work/env/.*bin/haproxy" | wc -l)
answer=$(ask)
echo "two minutes after kill -9 of the driver: processes of HAProxy $left, the port answers $answer"
[ "$left" -ge 1 ] && [ "$answer" = 500 ]
