"""FedJAX on the work of `answer`: `federated_averaging`, the `jit` backend of `for_each_client`.

pip install fedjax==0.0.17 and the jax that runs here. Written as FedJAX's documentation advises:
`InMemoryFederatedData`, `model_grad`, `ShuffleRepeatBatchHParams`. jax 0.10 needs one shim,
`jax.tree_map` set back. FedJAX fills the last batch of a client from a second pass. Its third
backend, `pmap`, calls what jax 0.10 no longer has. The clock covers `algorithm.apply` alone.
"""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
from answer import Clock, given, told

jax.tree_map = jax.tree.map
import fedjax  # noqa: E402


def scores(p, batch, rng=None):
    x = batch["x"]
    if "items" in p:
        return p["items"][x] @ p["w"] + p["b"]
    hidden = jax.nn.relu(x @ p["w1"] + p["b1"])
    return jax.nn.relu(hidden @ p["w2"] + p["b2"]) @ p["w3"] + p["b3"]


def loss(batch, z):
    return jax.nn.softplus(z) - batch["y"] * z


def main():
    work = given()
    data = fedjax.InMemoryFederatedData(
        {client: {"x": x, "y": y} for client, (x, y) in enumerate(work.clients)}
    )
    start = jax.tree.map(jnp.asarray, work.start)
    model = fedjax.Model(lambda rng: start, scores, scores, loss, {})
    fedjax.set_for_each_client_backend("jit")
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        grad_fn=fedjax.model_grad(model),
        client_optimizer=fedjax.optimizers.sgd(learning_rate=work.rate),
        server_optimizer=fedjax.optimizers.sgd(learning_rate=1.0),
        client_batch_hparams=fedjax.ShuffleRepeatBatchHParams(
            batch_size=work.batch, num_epochs=1, seed=0
        ),
    )
    root = jax.random.PRNGKey(0)
    keys = np.asarray(jax.random.split(root, data.num_clients()))
    clients = [(*client, key) for client, key in zip(data.clients(), keys, strict=True)]
    state, clock = algorithm.init(model.init(root)), Clock()
    for _ in range(work.rounds):
        with clock:
            state, _ = algorithm.apply(state, clients)
            jax.block_until_ready(state.params)
    told(work, clock, importlib.metadata.version("fedjax"), jax.device_get(state.params))


main()
