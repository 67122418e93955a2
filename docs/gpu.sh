#!/usr/bin/env bash
# What a GPU does to SinDDM: parity with the reference; seconds of a training step in both
# precisions and of a step of sampling, beside PyTorch's where LITHOGEN_PYTHON (or python3) has it; losses and
# samples beside the reference's recorded runs, in both precisions. The argument is
# a kind of device: cuda, vulkan, webgpu or cpu. Needs LITHOGEN_GOLDEN, the folder of
# reference vectors. With `quick` as second argument, one seed instead of three.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:?name a device: cuda, vulkan, webgpu or cpu}
seeds=3
if [ "${2:-}" = quick ]; then seeds=1; fi
: "${LITHOGEN_GOLDEN:?the folder of reference vectors}"
features=()
if [ "$kind" != cpu ]; then features=(--features "cli/$kind"); fi
if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv; fi

export LITHOGEN_TEST_DEVICE=$kind
# One test at a time: they share the device.
cargo test --release --workspace "${features[@]}" --lib parity::sinddm -- --test-threads 1
peer=()
python=${LITHOGEN_PYTHON:-python3}
if "$python" -c 'import torch' 2>/dev/null; then peer=(--peer "$python"); fi
cargo run --release "${features[@]}" -- bench compute --device "$kind" "${peer[@]}" \
    --step sinddm_train_8x100x132 sinddm_train_bf16_8x100x132 sinddm_sample_16x200x264
for precision in f32 bf16; do
    cargo bench --workspace "${features[@]}" --bench curve -- "$seeds" "$precision"
done
