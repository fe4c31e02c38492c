"""Prune ResNet-8 with Torch-Pruning and train it; runs in the environment that has torch, for torch_pruning_peer.py.

python torch_pruning_child.py DATA.npz WEIGHTS.npz MACS EPOCHS SEED OUT.json
"""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional as F

L2, RATE, BATCH, SHIFT = 1e-4, 1e-3, 128, 4
BLOCKS = ((1, 2, None), (3, 4, 5), (6, 7, 8))  # convolutions of each block, and its projection
NORMS = ((1, 2), (3, 4), (5, 6))


def same(x: torch.Tensor, stride: int, size: int) -> torch.Tensor:
    """Pad as TensorFlow does: at the end only, where the stride is 2."""
    if size == 1:
        return x
    return F.pad(x, (0, 1, 0, 1)) if stride == 2 else F.pad(x, (1, 1, 1, 1))


class ResNet8(nn.Module):
    """MLPerf Tiny's network with the weights of its Keras file; inputs (n, 3, 32, 32) in 0..255, outputs logits."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(self._conv(weights, number) for number in range(9))
        self.norms = nn.ModuleList(self._norm(weights, number) for number in range(7))
        kernel, bias = weights["dense_0"], weights["dense_1"]
        self.head = nn.Linear(*kernel.shape)
        self.head.weight.data, self.head.bias.data = torch.tensor(kernel.T.copy()), torch.tensor(bias)

    def _conv(self, weights: dict[str, np.ndarray], number: int) -> nn.Conv2d:
        kernel = weights[f"conv_{number}_0"]
        stride = 2 if number in (3, 5, 6, 8) else 1
        conv = nn.Conv2d(kernel.shape[2], kernel.shape[3], kernel.shape[0], stride)
        conv.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
        conv.bias.data = torch.tensor(weights[f"conv_{number}_1"])
        return conv

    def _norm(self, weights: dict[str, np.ndarray], number: int) -> nn.BatchNorm2d:
        gamma, beta, mean, variance = (torch.tensor(weights[f"norm_{number}_{part}"]) for part in range(4))
        norm = nn.BatchNorm2d(len(gamma), eps=1e-3)
        norm.weight.data, norm.bias.data = gamma, beta
        norm.running_mean.data, norm.running_var.data = mean, variance
        return norm

    def _convolved(self, x: torch.Tensor, number: int) -> torch.Tensor:
        conv = self.convs[number]
        return conv(same(x, conv.stride[0], conv.kernel_size[0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norms[0](self._convolved(x, 0)))
        for (first, second, projection), (one, two) in zip(BLOCKS, NORMS, strict=True):
            y = F.relu(self.norms[one](self._convolved(x, first)))
            y = self.norms[two](self._convolved(y, second))
            x = F.relu(y + (x if projection is None else self._convolved(x, projection)))
        return self.head(x.mean((2, 3)))


def pruned(model: ResNet8, macs: float) -> ResNet8:
    """Return the model with the largest widths (multiples of 8) that need at most `macs`."""
    example, best = torch.zeros(1, 3, 32, 32), None
    for ratio in np.linspace(0.05, 0.9, 171):
        smaller = copy.deepcopy(model)
        pruner = tp.pruner.BasePruner(
            smaller,
            example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=float(ratio),
            global_pruning=True,
            isomorphic=True,
            round_to=8,
            ignored_layers=[smaller.head],
        )
        pruner.step()
        if counted(smaller) <= macs:
            best = smaller
            break
    if best is None:
        raise SystemExit("no ratio is small enough")
    return best


def counted(model: nn.Module) -> float:
    """Return the multiplications of convolutions and of the head for one image."""
    total: list[float] = []
    hooks = [
        layer.register_forward_hook(lambda layer, _, out: total.append(layer.weight[0].numel() * out[0].numel()))
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return float(sum(total))


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the share of images that are classified right."""
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part.float()).argmax(1) for part in x.split(500)])
    return float((found == y).float().mean())


def augmented(x: torch.Tensor) -> torch.Tensor:
    """Return images mirrored at random and moved by up to `SHIFT` pixels, with repeated edges."""
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    padded = F.pad(x, (SHIFT,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, len(x)))
    rows = (down[:, None] + torch.arange(32))[:, None, :, None].expand(-1, 3, -1, padded.shape[3])
    columns = (right[:, None] + torch.arange(32))[:, None, None, :].expand(-1, 3, 32, -1)
    return padded.gather(2, rows).gather(3, columns)


def train(model: nn.Module, data: dict[str, torch.Tensor], epochs: int) -> nn.Module:
    """Return the model of the epoch that is best on validation images."""
    kernels = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    ids = {id(kernel) for kernel in kernels}
    others = [weight for weight in model.parameters() if id(weight) not in ids]
    groups = [{"params": kernels, "weight_decay": 2 * L2}, {"params": others}]  # L2 in the loss, as in the Keras model
    optimizer = torch.optim.Adam(groups, lr=RATE)
    steps = epochs * -(-len(data["x_train"]) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, kept = -1.0, copy.deepcopy(model)
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(data["x_train"])).split(BATCH):
            optimizer.zero_grad()
            outputs = model(augmented(data["x_train"][rows].float()))
            F.cross_entropy(outputs, data["y_train"][rows]).backward()
            optimizer.step()
            schedule.step()
        if (found := accuracy(model, data["x_validation"], data["y_validation"])) > best:
            best, kept = found, copy.deepcopy(model)
    return kept


def main(data_file: str, weights_file: str, macs: str, epochs: str, seed: str, out: str) -> None:
    torch.manual_seed(int(seed))
    with np.load(data_file) as stored:
        data = {name: torch.tensor(stored[name]) for name in stored.files}
    with np.load(weights_file) as stored:
        model = ResNet8(dict(stored))
    before = accuracy(model, data["x_test"], data["y_test"])
    smaller = pruned(model, float(macs))
    trained = train(smaller, data, int(epochs))
    widths = [conv.out_channels for conv in trained.convs]
    answer = {
        "before": before,
        "accuracy": accuracy(trained, data["x_test"], data["y_test"]),
        "macs": counted(model) / counted(trained),
        "widths": widths,
        "version": tp.__version__,
        "torch": torch.__version__,
    }
    Path(out).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
