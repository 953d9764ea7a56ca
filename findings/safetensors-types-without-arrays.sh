#!/usr/bin/env bash
# safetensors 0.8.0, numpy 2.2.6
# Expected: an element type that the format defines (F8_E8M0 of MX scales, F4) is either read, or refused by an error that says so.
# Seen:     the parser accepts the file; safetensors.numpy.load then raises a bare KeyError whose text is the type's name alone.
# Ours:     agents/foreign_weights.py (_check_types) looks into the header first and names tensor and type.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.2.6
"$work/env/bin/python" - <<'PY'
import json
import sys

from safetensors import deserialize
from safetensors.numpy import load

changed = False
for kind, size in (("F8_E8M0", 16), ("F4", 8)):
    header = json.dumps({"scales": {"dtype": kind, "shape": [16], "data_offsets": [0, size]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(size)
    parsed = deserialize(content)
    print(kind, "parsed:", [(name, entry["dtype"], entry["shape"]) for name, entry in parsed])
    try:
        load(content)
        seen = "read"
    except Exception as error:
        seen = f"{type(error).__name__}: {error}"
    print(kind, "as arrays:", seen)
    changed |= seen != f"KeyError: '{kind}'"
sys.exit(changed)
PY
