#!/usr/bin/env bash
# tensorboard 2.21.0
# Expected: two writers may have an event file each in one folder, and a reader shows what both go on to write.
# Seen:     once a newer file is there, the reader never looks into the older one again: what its writer adds later stays unseen.
#           A report written beside a running training so hid the training's later steps.
# Ours:     cluster/reports/page.py writes into tensorboard/report/, a folder of its own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check tensorboard==2.21.0 "setuptools<81"
cd "$work"
"$work/env/bin/python" - <<'PY'
import sys
import time

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


def add(writer, tag, step):
    value = Summary.Value(tag=tag, simple_value=float(step))
    writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=[value])))
    writer.flush()


training = EventFileWriter("board")
add(training, "loss", 1)
reader = EventAccumulator("board")
reader.Reload()
time.sleep(1.1)  # file names hold seconds
report = EventFileWriter("board", filename_suffix=".report")
add(report, "cross", 1)
reader.Reload()
add(training, "loss", 2)
add(training, "loss", 3)
reader.Reload()
steps = [event.step for event in reader.Scalars("loss")]
print("written by the training: [1, 2, 3]; seen by the reader that watched:", steps)
fresh = EventAccumulator("board")
fresh.Reload()
print("seen by a reader that begins now:", [event.step for event in fresh.Scalars("loss")])
sys.exit(steps != [1])
PY
