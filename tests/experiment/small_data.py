"""A folder of RecBole atomic files, 60 users and 40 items, and configurations that train on it."""

import json
from pathlib import Path

import numpy as np
import yaml

USERS, ITEMS = 60, 40


def write_folder(folder: Path, users: int = USERS, shortest: int = 5) -> Path:
    """`folder/<name>.inter` with `shortest` to `shortest` + 6 ratings a user, in time order."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(users):
        for item in rng.permutation(ITEMS)[: shortest + user % 7]:
            rows.append(f"u{user}\ti{item}\t{1 + int(item) % 5}\t{len(rows)}")
    (folder / f"{folder.name}.inter").write_text("\n".join(rows) + "\n")
    return folder


def write_config(path: Path, source: Path, **changes) -> Path:
    """A YAML file for FedMF of width 4, five rounds of 20 clients, a checkpoint every two."""
    config = {
        "data": {"source": str(source)},
        "model": {"class_path": "fedjax_rec.models.fedmf", "init_args": {"width": 4}},
        "cohorts": {"class_path": "fedjax_rec.simulate.uniform", "init_args": {"size": 20}},
        "evaluation": {"metrics": ["hr@5", "mrr"]},
        "rounds": 5,
        "checkpoint_every": 2,
        **changes,
    }
    path.write_text(yaml.safe_dump(config))
    return path


def timeless(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl, without the time they took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in one.items() if k != "seconds"} for one in lines]


MYLAB = '''
import jax.numpy as jnp
from fedjax_rec import clients, compress, models, strategies
from fedjax_rec.types import Compressor, Model, Strategy


def my_model(num_items: int, members: int = 1, size: int = 4) -> Model:
    return models.fedmf(num_items, members, width=size)


def my_strategy(
    model, examples, probe=None, *, rate: float = 0.1, uplink: Compressor | None = None
) -> Strategy:
    client = clients.local_training(model, examples, clients.sgd(rate), probe=probe, batch_size=16)
    return strategies.federated(client, model, uplink)


def my_uplink(step: float = 0.5) -> Compressor:
    """Rounds to whole steps."""
    return compress.leafwise(
        lambda key, x, real: (jnp.round(x / step).astype(jnp.int8), ()),
        lambda body, side, like: body.astype(like.dtype) * step,
    )


def unmarked(step: float = 0.5):
    return my_uplink(step)


number = 3
'''
