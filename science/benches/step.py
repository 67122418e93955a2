"""The SinDDM denoiser in PyTorch, timed for the bench `step`, which calls this.

Arguments: device, precision, width, height, batch, repeats. Prints one JSON line
for each way of running: seconds of a forward pass and of a training step.
"""

import json
import statistics
import sys
import time

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.shift = nn.Sequential(nn.GELU(), nn.Linear(32, 32))
        self.reshape = nn.Conv2d(32, inputs, 1)
        self.filter = nn.Conv2d(inputs, inputs, 5, padding=2, groups=inputs)
        self.net = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.GELU(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.short = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x, condition):
        shift = self.reshape(self.shift(condition)[:, :, None, None])
        return self.net(self.filter(x) + shift) + self.short(x)


class Denoiser(nn.Module):
    def __init__(self, dim=160):
        super().__init__()
        self.condition = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32))
        widths = [3, dim // 2, dim, dim, dim // 2]
        self.blocks = nn.ModuleList(Block(*pair) for pair in zip(widths, widths[1:]))
        self.last = nn.Conv2d(dim // 2, 3, 1)

    def forward(self, x, embedding):
        condition = self.condition(embedding)
        for block in self.blocks:
            x = block(x, condition)
        return self.last(x)


def median(work, repeats, wait):
    work()
    seconds = []
    for _ in range(repeats):
        wait()
        began = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main():
    device, precision = sys.argv[1:3]
    width, height, batch, repeats = map(int, sys.argv[3:7])
    cuda = device == "cuda"
    wait = torch.cuda.synchronize if cuda else lambda: None
    name = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} threads"
    for way in ["eager", "channels_last", "compile, channels_last"]:
        torch.manual_seed(1)
        layout = torch.contiguous_format if way == "eager" else torch.channels_last
        net = Denoiser().to(device).to(memory_format=layout)
        step_of = torch.compile(net) if way.startswith("compile") else net
        adam = torch.optim.Adam(net.parameters(), lr=1e-3)
        x = torch.randn(batch, 3, height, width, device=device).to(memory_format=layout)
        embedding = torch.randn(batch, 64, device=device)

        def forward():
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                return step_of(x, embedding)

        def train():
            adam.zero_grad()
            (forward().float() - x).abs().mean().backward()
            adam.step()

        def infer():
            with torch.no_grad():
                forward()

        try:
            times = {"forward": median(infer, repeats, wait), "train": median(train, repeats, wait)}
        except Exception as error:  # a way that this machine cannot go
            print(json.dumps({"way": way, "error": str(error).splitlines()[0][:200]}))
            continue
        peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else None
        print(json.dumps({"way": way, **times, "peak_mib": peak, "torch": torch.__version__, "on": name}), flush=True)


main()
