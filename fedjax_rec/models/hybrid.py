"""Two models that are trained side by side and rank together.

    loss  = l_1 + l_2                        nothing is shared: each is trained as it is alone
    score = w s_1(u, i) + (1 - w) s_2(u, i)

For losses that are a cross-entropy over items that ranks by p_1^w p_2^(1-w), what both find likely.
One that knows items by their rows and one that knows them by their texts make different mistakes:
the hybrid retrieval of GPT-FedRec (Zeng et al., "Federated recommendation via hybrid retrieval
augmented generation", 2024). Of models that were trained apart, whatever they are, lists are put
together by `fedjax-rec rerank`, which also has a language model rank the first results anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from ..check import fraction
from ..types import Model, Ranking
from .sequential.next_item import ItemLoss
from .sequential.sasrec import sasrec
from .sequential.unisrec import unisrec


def hybrid(first: Model, second: Model, share: float = 0.5) -> Model:
    """Both models on the same examples; parameters are {"first": ..., "second": ...}, shared and
    private.

    Args:
        first: any that ranks items or predicts labelled examples.
        second: another that does the same, on the same kind of examples.
        share: w, of the first one's scores; in [0, 1]. Nothing in training depends on it.

    Raises:
        ValueError: for a share out of range, and where one ranks or predicts and the other not.

    Example:
        >>> model = models.hybrid(models.fedmf(num_items), models.gmf(num_items), share=0.7)
        >>> strategy = strategies.fedavg(model, data.pointwise(4))
    """
    fraction("hybrid", "share", share)
    for what in ("ranking", "predict"):
        has = [getattr(model, what) is not None for model in (first, second)]
        if has[0] != has[1]:
            raise ValueError(
                f"hybrid(first, second): one has a {what} and the other has none; give two that "
                "are measured alike."
            )
    parts = {"first": first, "second": second}

    def each(function):
        """function(name, model, shared, private, ...) of both."""
        return lambda shared, private, *rest: {
            name: function(name, model, shared[name], private[name], *rest)
            for name, model in parts.items()
        }

    def together(of_each):
        return share * of_each["first"] + (1 - share) * of_each["second"]

    def init(key, common=None):
        of = lambda i, key: None if key is None else jax.random.fold_in(key, i)
        both = [model.init(of(i, key), of(i, common)) for i, model in enumerate(parts.values())]
        shared, private = (
            dict(zip(parts, trees, strict=True)) for trees in zip(*both, strict=True)
        )
        return shared, private

    def loss(shared, private, batch, key):
        keys = dict(zip(parts, jax.random.split(key), strict=True))
        losses = each(lambda name, model, *own: model.loss(*own, batch, keys[name]))
        found = losses(shared, private)
        return found["first"] + found["second"]

    def score(shared, private, catalogue, context, items, user):
        scores = each(
            lambda name, model, *own: model.ranking.score(
                *own, catalogue[name], context[name], items, user
            )
        )
        return together(scores(shared, private))

    ranking = first.ranking and Ranking(
        score,
        each(lambda name, model, *own: model.ranking.catalogue(*own)),
        each(lambda name, model, *own: model.ranking.context(*own)),
    )
    predict = each(lambda name, model, *own: model.predict(*own))
    predicted = lambda shared, private, batch: together(predict(shared, private, batch))
    return Model(init, loss, ranking, first.predict and predicted)


def hybrid_sasrec(
    num_items: int,
    members: int = 1,
    titles: Sequence[str] | None = None,
    weights: str = "minilm",
    tokens: int = 128,
    components: int = 128,
    projector: Sequence[int] = (),
    scale: float = 0.1,
    width: int = 64,
    length: int = 50,
    layers: int = 2,
    heads: int = 1,
    dropout: float = 0.2,
    loss: ItemLoss | None = None,
    share: float = 0.5,
) -> Model:
    """`hybrid` of `sasrec`, whose items are rows, and `unisrec`, whose items are texts. Train it on
    `data.sequences(length)`.

    Arguments that are not named here are those of `unisrec`.

    Args:
        share: of the scores by rows.

    Raises:
        ValueError: as `unisrec` and `hybrid`.

    Example:
        >>> texts = {"titles": titles, "weights": bert_folder, "components": 4}
        >>> model = models.hybrid_sasrec(num_items, **texts)
    """
    sizes = width, length, layers, heads, dropout, loss
    by_rows = sasrec(num_items, members, *sizes)
    by_texts = unisrec(
        num_items, members, titles, weights, tokens, components, projector, scale, *sizes
    )
    return hybrid(by_rows, by_texts, share)
