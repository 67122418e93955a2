"""ResNet50 with the paper's head in PyTorch, timed for the bench `classify`, which
calls this.

Arguments: device, batch, repeats. Prints one JSON line for each way of running:
patches of 256x256 that a training step takes in a second.
"""

import json
import statistics
import sys
import time

import torch
from torch import nn


class Bottleneck(nn.Module):
    def __init__(self, inputs, inner, stride):
        super().__init__()
        outputs = 4 * inner
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )
        straight = stride == 1 and inputs == outputs
        self.short = nn.Identity() if straight else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x):
        return torch.relu(self.body(x) + self.short(x))


def network():
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, blocks in enumerate([3, 4, 6, 3]):
        for block in range(blocks):
            layers.append(Bottleneck(channels, 64 << stage, 2 if stage and not block else 1))
            channels = 256 << stage
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for width in [768, 256, 128]:
        layers += [nn.Linear(channels, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5)]
        channels = width
    return nn.Sequential(*layers, nn.Linear(channels, 6))


def main():
    device, batch, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    cuda = device == "cuda"
    wait = torch.cuda.synchronize if cuda else lambda: None
    name = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} threads"
    for way in ["eager", "channels_last"]:
        torch.manual_seed(1)
        layout = torch.contiguous_format if way == "eager" else torch.channels_last
        net = network().to(device).to(memory_format=layout)
        sgd = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
        x = torch.randn(batch, 3, 256, 256, device=device).to(memory_format=layout)
        truth = torch.arange(batch, device=device) % 6
        seconds = []
        try:
            for _ in range(repeats + 1):
                wait()
                began = time.perf_counter()
                sgd.zero_grad()
                nn.functional.cross_entropy(net(x), truth).backward()
                sgd.step()
                wait()
                seconds.append(time.perf_counter() - began)
        except Exception as error:  # a way that this machine cannot go
            print(json.dumps({"way": way, "error": str(error).splitlines()[0][:200]}))
            continue
        patches = batch / statistics.median(seconds[1:])
        print(json.dumps({"way": way, "patches": patches, "torch": torch.__version__, "on": name}), flush=True)


main()
