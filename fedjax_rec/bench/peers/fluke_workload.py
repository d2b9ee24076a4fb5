"""fluke on the work of `answer`: its `FedAVG`, all clients, without evaluation.

pip install fluke-fl==0.8.1 torch; with a torch for CPUs alone torchvision is removed, whose build
does not import beside it. The clock covers `fit` of one round.
"""

import importlib.metadata

import torch
from answer import Clock, given, told
from fluke import DDict
from fluke.algorithms.fedavg import FedAVG
from fluke.data import DataSplitter, FastDataLoader
from torch_models import module, parameters, tensors


class Given(DataSplitter):
    def __init__(self, clients):
        self.clients = clients

    def assign(self, n_clients, batch_size=None):
        loaders = [
            FastDataLoader(x, y, num_labels=2, batch_size=batch_size, shuffle=True)
            for x, y in self.clients
        ]
        return (loaders, [None] * n_clients), None


def main():
    work = given()
    hyper = DDict(
        client=dict(
            batch_size=work.batch, local_epochs=1, loss=torch.nn.BCEWithLogitsLoss, clipping=0,
            optimizer=dict(name=torch.optim.SGD, lr=work.rate),
            scheduler=dict(name=torch.optim.lr_scheduler.StepLR, step_size=1, gamma=1.0),
        ),
        server=dict(weighted=True, lr=1.0), model=module(work.start),
    )  # fmt: skip
    clients = tensors(work.clients)
    server = FedAVG(len(clients), Given(clients), hyper).server
    server._compute_evaluation = lambda *args, **kwargs: None
    clock = Clock()
    for _ in range(work.rounds):
        with clock:
            server.fit(1, 1.0, finalize=False)
    told(work, clock, importlib.metadata.version("fluke-fl"), parameters(server.model))


main()
