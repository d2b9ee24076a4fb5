"""pfl-research on the work of `answer`: its `FederatedAveraging` in a `SimulatedBackend`.

pip install pfl==0.6.0 torch. The clock covers a central iteration; nothing is evaluated.
"""

import importlib.metadata

import torch
from answer import Clock, given, told
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch_models import module, parameters, tensors


class Clocked(TrainingProcessCallback):  # clock
    def __init__(self, clock):
        self.clock = clock

    def on_train_begin(self, *, model):
        self.clock.start()
        return Metrics()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self.clock.stop()
        self.clock.start()
        return False, Metrics()


class Trained(torch.nn.Module):
    def __init__(self, start):
        super().__init__()
        self.inner = module(start)

    def loss(self, x, y, eval=False):
        self.train(not eval)
        return torch.nn.functional.binary_cross_entropy_with_logits(self.inner(x), y)

    @torch.no_grad()
    def metrics(self, x, y, eval=True):
        return {"loss": Weighted(self.loss(x, y, eval).item() * len(y), len(y))}


def main():
    work = given()
    clients = tensors(work.clients)
    users = FederatedDataset(
        lambda user: Dataset(raw_data=list(clients[user]), user_id=str(user)),
        get_user_sampler("minimize_reuse", list(range(len(clients)))),
    )
    trained = Trained(work.start)
    model = PyTorchModel(
        model=trained,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(trained.parameters(), lr=1.0),
    )
    clock = Clock()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=work.rounds,
            evaluation_frequency=10**6,
            train_cohort_size=len(clients),
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(
            training_data=users, val_data=users, postprocessors=[WeightByDatapoints()]
        ),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_learning_rate=work.rate, local_num_epochs=1, local_batch_size=work.batch
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=work.batch),
        callbacks=[Clocked(clock)],
    )
    told(work, clock, importlib.metadata.version("pfl"), parameters(trained.inner))


main()
