"""The two models of `answer` in PyTorch, as its users write them."""

import numpy as np
import torch


class Factors(torch.nn.Module):
    def __init__(self, start):
        super().__init__()
        self.items = torch.nn.Embedding.from_pretrained(start["items"], freeze=False)
        self.w = torch.nn.Parameter(start["w"])
        self.b = torch.nn.Parameter(start["b"])

    def forward(self, x):
        return self.items(x) @ self.w + self.b


class Network(torch.nn.Module):
    def __init__(self, start):
        super().__init__()
        for name, value in start.items():
            self.register_parameter(name, torch.nn.Parameter(value))

    def forward(self, x):
        hidden = torch.relu(torch.addmm(self.b1, x, self.w1))
        return torch.relu(torch.addmm(self.b2, hidden, self.w2)) @ self.w3 + self.b3


def module(start):
    start = {name: torch.tensor(value) for name, value in start.items()}
    return Factors(start) if "items" in start else Network(start)


def tensors(clients):
    as_index = lambda x: x.astype(np.int64) if x.dtype.kind == "i" else x
    return [(torch.as_tensor(as_index(x)), torch.as_tensor(y)) for x, y in clients]


def parameters(trained):
    named = {name.split(".")[0]: value for name, value in trained.named_parameters()}
    return {name: value.detach().numpy().copy() for name, value in named.items()}
