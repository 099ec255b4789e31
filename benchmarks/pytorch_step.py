"""One network's step in PyTorch, for `benchmarks/pytorch.py`, in an environment that has nothing of this repository.

/tmp/distracted-drivers-pytorch/bin/python benchmarks/pytorch_step.py resnet50
"""

import argparse
import importlib
import re
import sys
import time
from types import ModuleType
from typing import Any

import torch


def _torchvision() -> ModuleType:
    """The library; also where its compiled part, made for CUDA, does not load beside a PyTorch for CPUs.

    Of that part the networks here need nothing, but the import expects some of its operations to be there.
    """
    while True:
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            missing = re.search(r"operator (torchvision::\w+) does not exist", str(error))
            if not missing:
                raise
            torch.library.define(missing[1], "(Tensor x) -> Tensor")
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]


BATCH, WARM = 32, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=("vgg16", "inception_v3", "resnet50"))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = network(arguments.network).to(memory_format=torch.channels_last)
    step = torch.compile(model) if arguments.compile else model
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-5, fused=True)
    pixels = torch.randint(0, 256, (BATCH, 3, arguments.size, arguments.size), dtype=torch.uint8)
    images = pixels.to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,))
    begun = 0.0
    for number in range(WARM + arguments.steps):
        if number == WARM:
            begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            logits = step(images.float() / 127.5 - 1)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()
    training = BATCH * arguments.steps / (time.perf_counter() - begun)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        step(images.float() / 127.5 - 1)
        begun = time.perf_counter()
        for _ in range(arguments.steps):
            step(images.float() / 127.5 - 1).softmax(1).sum().item()
    prediction = BATCH * arguments.steps / (time.perf_counter() - begun)
    print(f"figures training={training:.4f} prediction={prediction:.4f}")


def network(name: str) -> Any:
    """Backbone, average pooling and ten logits; BatchNorm in inference mode, its parameters frozen."""
    models = _torchvision().models
    if name == "vgg16":
        features = models.vgg16(weights=None).features
        pooling = torch.nn.AdaptiveAvgPool2d(1)
        return torch.nn.Sequential(features, pooling, torch.nn.Flatten(), torch.nn.Linear(512, 10))
    if name == "resnet50":
        model: Any = models.resnet50(weights=None)
    else:
        model = models.inception_v3(weights=None, aux_logits=False, init_weights=False)
        model.dropout = torch.nn.Identity()
    model.fc = torch.nn.Linear(2048, 10)
    model.eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.requires_grad_(False)
    return model


if __name__ == "__main__":
    main()
