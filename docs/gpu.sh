#!/usr/bin/env bash
# What a GPU does to SinDDM: parity with the reference, then losses, samples and
# seconds a step beside the reference's recorded runs. The argument is a kind of
# device: cuda, vulkan, webgpu or cpu. Needs LITHOGEN_GOLDEN, the folder of
# reference vectors.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:?name a device: cuda, vulkan, webgpu or cpu}
: "${LITHOGEN_GOLDEN:?the folder of reference vectors}"
features=()
if [ "$kind" != cpu ]; then features=(--features "cli/$kind"); fi
if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv; fi

export LITHOGEN_TEST_DEVICE=$kind
# One test at a time: they share the device.
cargo test --release --workspace "${features[@]}" --lib golden::sinddm -- --test-threads 1
cargo bench --workspace "${features[@]}" --bench curve
