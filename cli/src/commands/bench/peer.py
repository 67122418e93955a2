"""The steps of `lithogen bench compute` in PyTorch, written plainly, with the same shapes.

Arguments: step, way (eager, channels_last, compile), device (cpu, cuda), threads. Says
`ready` and what computes, then does the step for each line that it reads and says the
seconds; when there are no more, says the peak of memory in bytes.
"""

import os
import resource
import sys
import time

# Whatever libraries print goes elsewhere than the answers.
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import torch
from torch import nn
from torch.nn import functional


class SinDdmBlock(nn.Module):
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


class SinDdm(nn.Module):
    def __init__(self, dim=160):
        super().__init__()
        self.condition = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32))
        widths = [3, dim // 2, dim, dim, dim // 2]
        self.blocks = nn.ModuleList(SinDdmBlock(*pair) for pair in zip(widths, widths[1:]))
        self.last = nn.Conv2d(dim // 2, 3, 1)

    def forward(self, x, embedding):
        condition = self.condition(embedding)
        for block in self.blocks:
            x = block(x, condition)
        return self.last(x)


def unit(inputs, outputs, kernel, stride=1, padding=0, epsilon=1e-5):
    """Convolution and normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return [conv, nn.BatchNorm2d(outputs, eps=epsilon)]


class Bottleneck(nn.Module):
    def __init__(self, inputs, inner, stride):
        super().__init__()
        outputs = 4 * inner
        self.body = nn.Sequential(
            *unit(inputs, inner, 1), nn.ReLU(), *unit(inner, inner, 3, stride, 1), nn.ReLU(), *unit(inner, outputs, 1)
        )
        straight = stride == 1 and inputs == outputs
        self.short = nn.Identity() if straight else nn.Sequential(*unit(inputs, outputs, 1, stride))

    def forward(self, x):
        return torch.relu(self.body(x) + self.short(x))


def resnet():
    layers = [*unit(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
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


def inception():
    layers = [unit(3, 32, 3, 2, 0, 1e-3), unit(32, 32, 3, 1, 0, 1e-3), unit(32, 64, 3, 1, 1, 1e-3)]
    return nn.Sequential(*(part for layer in layers for part in [*layer, nn.ReLU()]))


class RmsNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x):
        return functional.normalize(x, dim=1) * self.g * x.shape[1] ** 0.5


class Half(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs)

    def forward(self, x, scale=0, shift=0):
        return functional.silu(self.norm(self.conv(x)) * (scale + 1) + shift)


class Residual(nn.Module):
    def __init__(self, inputs, outputs, time):
        super().__init__()
        self.told = nn.Sequential(nn.SiLU(), nn.Linear(time, 2 * outputs))
        self.first, self.second = Half(inputs, outputs), Half(outputs, outputs)
        self.short = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x, time):
        told = self.told(time)[:, :, None, None].chunk(2, 1)
        return self.second(self.first(x, *told)) + self.short(x)


class Attention(nn.Module):
    """Over all pixels, with four keys that do not depend on the picture: in full, or linear."""

    def __init__(self, channels, full, heads=4, width=32):
        super().__init__()
        self.full, self.heads, self.scale = full, heads, width**-0.5
        self.norm = RmsNorm(channels)
        self.memory = nn.Parameter(torch.randn(2, heads, 4, width))
        self.qkv = nn.Conv2d(channels, 3 * heads * width, 1, bias=False)
        out = nn.Conv2d(heads * width, channels, 1, bias=not full)
        self.out = out if full else nn.Sequential(out, RmsNorm(channels))

    def forward(self, x):
        batch, _, height, width = x.shape
        parts = self.qkv(self.norm(x)).chunk(3, 1)
        q, k, v = (part.reshape(batch, self.heads, -1, height * width).transpose(2, 3) for part in parts)
        k, v = (torch.cat([m.expand(batch, -1, -1, -1), part], 2) for m, part in zip(self.memory, [k, v]))
        if self.full:
            out = functional.scaled_dot_product_attention(q, k, v)
        else:
            out = q.softmax(-1) * self.scale @ (k.softmax(-2).transpose(2, 3) @ v)
        return x + self.out(out.transpose(2, 3).reshape(batch, -1, height, width))


class Level(nn.Module):
    def __init__(self, inputs, outputs, time, full, resize):
        super().__init__()
        self.first, self.second = Residual(inputs, outputs, time), Residual(inputs, outputs, time)
        self.attention, self.resize = Attention(outputs, full), resize


class Unet(nn.Module):
    def __init__(self, dim=64, mults=(1, 2, 4, 8)):
        super().__init__()
        time, widths = 4 * dim, [dim, *(dim * mult for mult in mults)]
        pairs = list(zip(widths, widths[1:]))
        self.stem = nn.Conv2d(3, dim, 7, padding=3)
        self.time = nn.Sequential(nn.Linear(dim, time), nn.GELU(), nn.Linear(time, time))
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for number, (inputs, outputs) in enumerate(pairs):
            last = number + 1 == len(pairs)
            same = nn.Conv2d(inputs, outputs, 3, padding=1)
            halved = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * inputs, outputs, 1))
            self.downs.append(Level(inputs, inputs, time, last, same if last else halved))
        for number, (inputs, outputs) in reversed(list(enumerate(pairs))):
            same = nn.Conv2d(outputs, inputs, 3, padding=1)
            resize = nn.Sequential(nn.Upsample(scale_factor=2), same) if number else same
            level = Level(outputs + inputs, outputs, time, number + 1 == len(pairs), resize)
            self.ups.append(level)
        inner = widths[-1]
        self.middle = nn.ModuleList([Residual(inner, inner, time), Attention(inner, True), Residual(inner, inner, time)])
        self.last = Residual(2 * dim, dim, time)
        self.out = nn.Conv2d(dim, 3, 1)

    def forward(self, x, embedding):
        time = self.time(embedding)
        h = stem = self.stem(x)
        skips = []
        for level in self.downs:
            h = level.first(h, time)
            skips.append(h)
            h = level.attention(level.second(h, time))
            skips.append(h)
            h = level.resize(h)
        first, attention, second = self.middle
        h = second(attention(first(h, time)), time)
        for level in self.ups:
            h = level.first(torch.cat([h, skips.pop()], 1), time)
            h = level.second(torch.cat([h, skips.pop()], 1), time)
            h = level.resize(level.attention(h))
        return self.out(self.last(torch.cat([h, stem], 1), time))


class Swin2Sr(nn.Module):
    def __init__(self):
        super().__init__()
        import transformers

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
        self.net = transformers.Swin2SRForImageSuperResolution(config)

    def forward(self, x):
        return self.net(x).reconstruction


# Of each step: its network, the shapes of what it takes, and the rule that it learns by.
ADAM = lambda parameters: torch.optim.Adam(parameters, lr=1e-3)
SGD = lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
STEPS = {
    "sinddm_train_8x100x132": (SinDdm, [(8, 3, 100, 132), (8, 64)], ADAM),
    "sinddm_train_bf16_8x100x132": (SinDdm, [(8, 3, 100, 132), (8, 64)], ADAM),
    "sinddm_sample_1x200x264": (SinDdm, [(1, 3, 200, 264), (1, 64)], None),
    "sinddm_sample_16x200x264": (SinDdm, [(16, 3, 200, 264), (16, 64)], None),
    "resnet50_train_24x256": (resnet, [(24, 3, 256, 256)], SGD),
    "resnet50_infer_24x256": (resnet, [(24, 3, 256, 256)], None),
    "inception_sifid_1056x800": (inception, [(1, 3, 800, 1056)], None),
    "ddpm_train_4x128": (Unet, [(4, 3, 128, 128), (4, 64)], ADAM),
    # Padded as the published script does.
    "swin2sr_x4_264x200": (Swin2Sr, [(1, 3, 208, 272)], None),
}


def prepare(step, way, device):
    """What does the step once."""
    network, shapes, rule = STEPS[step]
    torch.manual_seed(1)
    layout = torch.contiguous_format if way == "eager" else torch.channels_last
    net = network().to(device).to(memory_format=layout).train(rule is not None)
    x, *others = (torch.randn(shape, device=device) for shape in shapes)
    x = x.to(memory_format=layout)
    computed = torch.compile(net) if way == "compile" else net

    def forward():
        with torch.autocast(device, torch.bfloat16, enabled="bf16" in step):
            return computed(x, *others)

    def infer():
        with torch.no_grad():
            forward().sum().item()

    if rule is None:
        return infer
    optimizer = rule(net.parameters())
    classes = torch.arange(len(x), device=device) % 6

    def train():
        optimizer.zero_grad()
        out = forward().float()
        loss = functional.cross_entropy(out, classes) if out.dim() == 2 else (out - x).abs().mean()
        loss.backward()
        optimizer.step()
        loss.item()

    return train


def main():
    step, way, device, threads = sys.argv[1:5]
    torch.set_num_threads(int(threads))
    cuda = device == "cuda"
    wait = torch.cuda.synchronize if cuda else lambda: None
    name = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} threads"
    run = prepare(step, way, device)
    print(f"ready PyTorch {torch.__version__}, {name}", file=answers)
    for _ in sys.stdin:
        wait()
        began = time.perf_counter()
        run()
        wait()
        print(time.perf_counter() - began, file=answers)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(torch.cuda.max_memory_allocated() if cuda else most, file=answers)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # a way that this machine cannot go
        said = str(error).strip().splitlines() or [""]
        sys.exit(f"{type(error).__name__}: {said[0]}"[:300])
