#!/usr/bin/env bash
# Speed and one real run on a GPU, without Ray and without network: writes JSON and weights into a folder.
#
#   benchmarks/gpu.sh OUT [CIFAR]        CIFAR: folder of CIFAR-10 (as --data.root takes it); without it only speed is measured
#
# MINIATURE=1 tries the same commands on a CPU in a minute. Needs torch, pyarrow, pillow, safetensors, tensorboard, rich, yaml.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cifar=${2:-}
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD
methods=(at trades rslad mtard peeraid mat)
if [ -n "${MINIATURE:-}" ]; then
    tiny=(--network small_cnn:width=8 --batch 16 --device cpu --json)
    python benchmarks/step_time.py --methods at --variants exact bf16 --rounds 2 "${tiny[@]}" >"$out/step_time_16.json"
    python benchmarks/exact_on_device.py --methods mtard "${tiny[@]}" >"$out/exact_on_device.json"
    short=(--epochs 1 --max-steps 3 --batch-size 16 --network small_cnn:width=8 --examples 32)
else
    for batch in 128 512; do
        python benchmarks/step_time.py --methods "${methods[@]}" --variants exact tf32 bf16 bf16+compile --batch "$batch" --rounds 7 --json >"$out/step_time_$batch.json"
    done
    python benchmarks/exact_on_device.py --json >"$out/exact_on_device.json"
    short=(--epochs 30 --minutes 9)
fi
if [ -n "$cifar" ]; then # adversarial training with evaluation; out of time it exits 130 and, called again, goes on from there
    python benchmarks/cifar10_short.py --data-root "$cifar" --runs-dir "$out/runs" --only at --precision bf16 "${short[@]}" >"$out/cifar10_at.json"
fi
