"""The first configuration of somebody, which `fedjax-rec init` writes."""

from __future__ import annotations

from pathlib import Path

from ..storage import whole

TEXT = """\
# Federated matrix factorization. Run it with  fedjax-rec run {name}
# What a key means:  fedjax-rec explain strategy.uplink    What may stand there:  fedjax-rec list
seed: 0                    # of everything random
rounds: 100

data:
  source: ml-100k          # or a folder with NAME.inter or ratings.csv, or `synthetic`
  split: leave_one_out     # fedjax-rec list splits
  negatives: train         # training negatives are none of the user's training items

model:
  class_path: fedmf        # fedjax-rec list models; your own by its path, mylab.my_model
  init_args:
    width: 32

examples:
  class_path: pointwise    # each interaction with drawn negatives
  init_args:
    negatives: 4

strategy:
  class_path: fedmf        # fedjax-rec list strategies
  init_args:
    user_learning_rate: 20.0   # of what is private
    item_learning_rate: 60.0   # of what is shared
    batch_size: 256
    # uplink: {{class_path: top_k, init_args: {{fraction: 0.1}}}}   # fedjax-rec list compressors
    # aggregator: median                                       # fedjax-rec list aggregators

cohorts: full              # who takes part; {{class_path: uniform, init_args: {{size: 100}}}}

evaluation:
  metrics: [hr@10, ndcg@10]    # the first, on validation, chooses the best round
  every: 1                 # rounds between measurements
"""


def write_first(path: Path | str) -> Path:
    """Writes it. Raises ValueError where the file is there."""
    path = Path(path)
    if path.exists():
        raise ValueError(f"{path} is there already; name another file.")
    with whole(path) as beside:
        beside.write_text(TEXT.format(name=path), encoding="utf-8")
    return path
