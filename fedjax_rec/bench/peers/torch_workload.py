"""What a careful user writes in PyTorch: one client after another, of an item table only the rows
that the client touches, gradients by hand or, with --autograd, by PyTorch. See `answer`."""

import numpy as np
import torch
from answer import Clock, given, told
from torch_models import tensors


def scores(p, x):
    if "items" in p:
        return p["items"][x] @ p["w"] + p["b"]
    hidden = torch.relu(torch.addmm(p["b1"], x, p["w1"]))
    return torch.relu(torch.addmm(p["b2"], hidden, p["w2"])) @ p["w3"] + p["b3"]


def by_autograd(p, x, y, rate):
    loss = torch.nn.functional.binary_cross_entropy_with_logits(scores(p, x), y)
    gradients = torch.autograd.grad(loss, list(p.values()))
    with torch.no_grad():
        for value, gradient in zip(p.values(), gradients, strict=True):
            value.sub_(gradient, alpha=rate)


def by_hand(p, x, y, rate):
    if "items" in p:
        rows = p["items"][x]
        d = (torch.sigmoid(rows @ p["w"] + p["b"]) - y) * (rate / len(y))
        p["items"].index_add_(0, x, torch.outer(d, p["w"]), alpha=-1)
        p["w"] -= rows.T @ d
        p["b"] -= d.sum()
        return
    one = torch.relu(torch.addmm(p["b1"], x, p["w1"]))
    two = torch.relu(torch.addmm(p["b2"], one, p["w2"]))
    d = (torch.sigmoid(two @ p["w3"] + p["b3"]) - y) * (rate / len(y))
    of_two = torch.outer(d, p["w3"]) * (two > 0)
    of_one = (of_two @ p["w2"].T) * (one > 0)
    for w, b, below, change in (("w1", "b1", x, of_one), ("w2", "b2", one, of_two)):
        p[w].addmm_(below.T, change, alpha=-1)
        p[b] -= change.sum(0)
    p["w3"] -= two.T @ d
    p["b3"] -= d.sum()


def main():
    work = given("--autograd")
    step = by_autograd if work.flags else by_hand
    shared = {name: torch.tensor(value) for name, value in work.start.items()}
    clients = [(None, x, y) for x, y in tensors(work.clients)]
    if work.has_items:  # ids, and the samples by their place among them
        clients = [(*torch.unique(x, return_inverse=True), y) for _, x, y in clients]
    generator, clock = torch.Generator().manual_seed(0), Clock()
    for _ in range(work.rounds):
        with clock:
            total = {name: torch.zeros_like(value) for name, value in shared.items()}
            for ids, x, y in clients:
                seen = {n: v[ids] if n == "items" else v for n, v in shared.items()}
                own = {n: v.clone().requires_grad_(bool(work.flags)) for n, v in seen.items()}
                order = torch.randperm(len(y), generator=generator)
                for batch in order.split(work.batch):
                    step(own, x[batch], y[batch], work.rate)
                share = len(y) / len(work.y)
                for name, value in own.items():
                    change = value.detach() - seen[name]
                    if name == "items":
                        total[name].index_add_(0, ids, change, alpha=share)
                    else:
                        total[name].add_(change, alpha=share)
            shared = {name: value + total[name] for name, value in shared.items()}
    told(work, clock, torch.__version__, {n: np.asarray(v) for n, v in shared.items()})


main()
