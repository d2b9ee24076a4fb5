"""Flower's simulation on Ray on the work of `answer`: its `FedAvg` by the Message API.

pip install 'flwr[simulation]==1.42.0' torch. One actor a core that this process may use. The clock
covers a round of the strategy, from its configuration to the new parameters; CPU time is that of
all processes. Clients train with PyTorch's SGD, as Flower's documentation does.
"""

import importlib.metadata
import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # beside other work 15 would hold it back

import torch
from answer import Clock, given, read, told
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch_models import module, parameters, tensors

client_app, server_app = ClientApp(), ServerApp()
work, clock, held, final = given(), Clock(tree=True), {}, {}
path = os.path.abspath(work.path)


@client_app.train()
def train(message, context):
    user = int(context.node_config["partition-id"])
    if not held:  # once in each actor
        torch.set_num_threads(1)
        held.update(work=read(path, 2))
        held.update(clients=tensors(held["work"].clients))
    (x, y), batch, rate = held["clients"][user], held["work"].batch, held["work"].rate
    model = module(held["work"].start)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for chosen in torch.randperm(len(y)).split(batch):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
    arrays, metrics = ArrayRecord(model.state_dict()), MetricRecord({"num-examples": len(y)})
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


class Clocked(FedAvg):  # clock
    def configure_train(self, *args, **kwargs):
        clock.start()
        return super().configure_train(*args, **kwargs)

    def aggregate_train(self, *args, **kwargs):
        made = super().aggregate_train(*args, **kwargs)
        clock.stop()
        return made


@server_app.main()
def main(grid, context):
    users = len(work.clients)
    strategy = Clocked(
        fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=users, min_available_nodes=users
    )
    start = ArrayRecord(module(work.start).state_dict())
    final["arrays"] = strategy.start(grid, start, num_rounds=work.rounds).arrays


if __name__ == "__main__":
    run_simulation(
        server_app, client_app, num_supernodes=len(work.clients),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {
                "num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False,
            },
        },
    )  # fmt: skip
    trained = module(work.start)
    trained.load_state_dict(final["arrays"].to_torch_state_dict())
    told(work, clock, importlib.metadata.version("flwr"), parameters(trained))
