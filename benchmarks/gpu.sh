#!/usr/bin/env bash
# Speed and one real run on a GPU, without Ray and without network: writes JSON and weights into a folder.
#
#   benchmarks/gpu.sh OUT [CIFAR]        CIFAR: folder of CIFAR-10 (as --data.root takes it); without it only speed is measured
#
# What is in OUT already is not measured again. After MINUTES (default 9) nothing new begins and it exits with 130: the same command
# goes on. MINIATURE=1 tries the same commands on a CPU in a minute. Needs torch, numpy, pyarrow, pillow, safetensors, tensorboard, rich, yaml.
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
cifar=${2:+$(realpath "$2")}
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=$PWD
limit=$((${MINUTES:-9} * 60))
failed=0

once() { # NAME COMMAND...: its output in NAME.json; one that failed leaves NAME.failed and does not stop the others
    local file=$out/$1.json code
    shift
    if [ -s "$file" ]; then
        echo "$file is there" >&2
        return
    fi
    if ((SECONDS >= limit)); then
        echo "out of time; the same command goes on" >&2
        exit 130
    fi
    "$@" >"$file.tmp" && mv "$file.tmp" "$file" && return
    code=$?
    if ((code == 130)); then
        exit 130
    fi
    mv "$file.tmp" "${file%.json}.failed"
    echo "exit code $code: $*" >&2
    failed=1
}

if [ -n "${MINIATURE:-}" ]; then
    tiny=(--network small_cnn:width=8 --batch 16 --device cpu --json)
    once step_time_16 python benchmarks/step_time.py --methods at --variants exact bf16 --rounds 2 "${tiny[@]}"
    once exact_on_device python benchmarks/exact_on_device.py --methods mtard "${tiny[@]}"
    short=(--epochs 1 --max-steps 3 --batch-size 16 --network small_cnn:width=8 --examples 32)
else
    for batch in 128 512; do
        for method in at trades rslad mtard peeraid mat; do
            once "step_time_${batch}_$method" python benchmarks/step_time.py --methods "$method" --batch "$batch" --rounds 7 --json \
                --variants exact tf32 bf16 bf16+compile
        done
    done
    once exact_on_device python benchmarks/exact_on_device.py --json
    short=(--epochs 30)
fi
if [ -n "$cifar" ]; then # adversarial training with evaluation
    left=$(((limit - SECONDS) / 60))
    once cifar10_at python benchmarks/cifar10_short.py --data-root "$cifar" --runs-dir "$out/runs" --only at --precision bf16 \
        --minutes $((left > 1 ? left : 1)) "${short[@]}"
fi
exit $failed
