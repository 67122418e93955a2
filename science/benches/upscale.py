"""Swin2SR for compressed pictures in PyTorch, by the library transformers, timed
for the bench `upscale`, which calls this.

Arguments: width, height. Prints one JSON line: seconds of the second run, the peak
memory of the process in MiB. The weights are random: they change neither.
"""

import json
import resource
import sys
import time

import torch
import transformers

width, height = map(int, sys.argv[1:3])
config = transformers.Swin2SRConfig(
    image_size=48,
    embed_dim=180,
    depths=[6] * 6,
    num_heads=[6] * 6,
    window_size=8,
    mlp_ratio=2.0,
    upscale=4,
    img_range=1.0,
    resi_connection="1conv",
    upsampler="pixelshuffle_aux",
)
net = transformers.Swin2SRForImageSuperResolution(config).eval()
# Padded as the published script does.
picture = torch.rand(1, 3, (height // 8 + 1) * 8, (width // 8 + 1) * 8)
with torch.no_grad():
    for _ in range(2):
        began = time.perf_counter()
        net(picture)
        seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "peak_mib": peak, "torch": torch.__version__, "threads": torch.get_num_threads()}))
