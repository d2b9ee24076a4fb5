"""Everything that ships, by the call that makes it: the law tests run over these dictionaries.

A name opens with the factory it comes from, `cast('float16')`; `test_registry.py` fails when a
public factory of a room stands in none of them. Values are thunks, so that collecting is cheap;
models and local optimizers take what they need to know of the data.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import other_catalogue
import tiny_bert
import tiny_encoders
import tiny_llama
from adapted import adapted
from flax import nnx

from fedjax_rec import aggregate, attacks, clients, models, privacy, rows, strategies, trees
from fedjax_rec.data import (
    batches,
    counted,
    covered,
    drawn_once,
    examples,
    part_of,
    popular_negatives,
    query,
    sequences,
    support,
    whole_catalogue,
)
from fedjax_rec.models.prunable import parameters
from fedjax_rec.strategies import adapters
from fedjax_rec.types import Model, Server


class Adapted(nnx.Module):
    """One variable of each role: frozen rows, trained rows, a shared bias, a private vector."""

    def __init__(self, num_items, members, rngs):
        draw = jax.random.normal
        self.base = models.Frozen(0.1 * draw(rngs.params(), (num_items, 4)))
        self.item = models.Rows(0.1 * draw(rngs.params(), (num_items, 4)))
        self.user = models.Private(0.1 * draw(rngs.params(), (members, 4)))
        self.bias = nnx.Param(jnp.zeros(()))
        self.objective = models.bce()

    def loss(self, batch, key):
        items = self.base[batch["items"]] + self.item[batch["items"]]
        user = self.user[batch["users"]] if "users" in batch else self.user[0]
        return self.objective((items * user).sum(-1) + self.bias, batch)

    def score(self, items, user):
        return (self.base[items] + self.item[items]) @ self.user[user] + self.bias


def text(num_items: int) -> dict:
    """What a model that reads titles takes, with a tiny random BERT."""
    return dict(titles=tiny_bert.titles(num_items), weights=tiny_bert.folder(), components=6)


def featured(num_items: int, members: int) -> dict:
    """What a model that reads features takes: three columns of users and four of items."""
    return {
        "user_features": np.ones((1, members, 3), np.float32),
        "item_features": np.eye(num_items, 4, dtype=np.float32),
    }


def begun(model: Model) -> Model:
    """`model`, that starts where another draw of it is."""
    return models.started(model, trees.named(model.init(jax.random.key(5))[0]))


def all_ones(key, state, now):
    """A root that pushes every number up by one."""
    return state, rows.map_nodes(lambda x: jnp.ones(x.shape), trees.trainable(now.shared))


AGGREGATORS = {
    "mean()": lambda: aggregate.mean(),
    "uniform()": lambda: aggregate.uniform(),
    "per_row()": lambda: aggregate.per_row(),
    "total()": lambda: aggregate.total(),
    "by_change()": lambda: aggregate.by_change(),
    "products()": lambda: adapters.products(),
    "products(ranks)": lambda: adapters.products((1, 2)),
    "holders()": lambda: adapters.holders(),
    "by_norm()": lambda: adapters.by_norm(),
    "normalized()": lambda: aggregate.normalized(),
    "normalized_per_row(0.9)": lambda: aggregate.normalized_per_row(momentum=0.9),
}

# Rules that stand attackers. The laws' uploads are of five clients, three at most on a row.
ROBUST = {
    "by_coordinate(nanmedian)": lambda: aggregate.by_coordinate(
        lambda values: jnp.nanmedian(values, axis=0)
    ),
    "median(2)": lambda: aggregate.median(floor=2),
    "trimmed_mean(1)": lambda: aggregate.trimmed_mean(f=1),
    "trimmed_mean(0, floor=2)": lambda: aggregate.trimmed_mean(f=0, floor=2),
    "meamed(1)": lambda: aggregate.meamed(f=1),
    "geometric_median()": lambda: aggregate.geometric_median(),
    "krum(1)": lambda: aggregate.krum(f=1),
    "multi_krum(1)": lambda: aggregate.multi_krum(f=1),
    "bulyan(0)": lambda: aggregate.bulyan(f=0),
    "mda(1)": lambda: aggregate.mda(f=1),
    "foolsgold()": lambda: aggregate.foolsgold(),
    "dnc(1)": lambda: aggregate.dnc(f=1, share=0.7, times=2),
    "caf(1)": lambda: aggregate.caf(f=1),
    "norm_bound(2)": lambda: aggregate.norm_bound(2.0),
    "row_norm_bound(0.5)": lambda: aggregate.row_norm_bound(0.5),
    "centered_clip(2)": lambda: aggregate.centered_clip(2.0),
    "quorum(0.2)": lambda: aggregate.quorum(f=0.2),
    "quorum(0.2, budget=0.5)": lambda: aggregate.quorum(f=0.2, budget=0.5),
    "hics(1, 0.5)": lambda: aggregate.hics(1.0, 0.5),
    "fltrust(ones)": lambda: aggregate.fltrust(aggregate.Root(all_ones)),
    "union(uniform)": lambda: aggregate.union(items=20, draws=10),
    "mixed(nnm, median)": lambda: aggregate.mixed(aggregate.nnm(f=1), aggregate.median(2)),
    "mixed(nnm, mean)": lambda: aggregate.mixed(aggregate.nnm(f=1), aggregate.uniform()),
    "mixed(bucketing, trimmed_mean)": lambda: aggregate.mixed(
        aggregate.bucketing(s=2), aggregate.trimmed_mean(f=1)
    ),
}
AGGREGATORS |= ROBUST

# Rules under attack, of two of the laws' clients.
LIARS = attacks.named([2, 4])
PUBLIC = attacks.Published(np.zeros(31, int), np.arange(31), 1, 31)  # all of the laws' items
ATTACKED = {
    "attacked(uniform, ipm)": lambda: attacks.attacked(
        aggregate.uniform(), attacks.ipm(2.0), LIARS
    ),
    "attacked(uniform, pip_attack)": lambda: attacks.attacked(
        aggregate.uniform(), attacks.pip_attack([7], PUBLIC, users=2, profile=3, fits=2), LIARS
    ),
    "attacked(multi_krum, mimic)": lambda: attacks.attacked(
        aggregate.multi_krum(f=1), attacks.mimic(), LIARS
    ),
    "attacked(uniform, spattack_o)": lambda: attacks.attacked(
        aggregate.uniform(), attacks.spattack_o(), LIARS
    ),
}
AGGREGATORS |= ATTACKED

# Rules that are looked at: they stay what they are.
WATCHED = {
    "with_norms(per_row)": lambda: aggregate.with_norms(aggregate.per_row()),
    "with_norms(multi_krum)": lambda: aggregate.with_norms(aggregate.multi_krum(f=1)),
    "with_detection(krum)": lambda: attacks.with_detection(aggregate.krum(f=1), LIARS),
}
AGGREGATORS |= WATCHED

# Clipped sums, without the noise, by which all rows move. Of clients that send updates alone.
PRIVATE = {
    f"gaussian_mean({name})": lambda clip=clip: privacy.gaussian_mean(clip, 0.0, clients=6)
    for name, clip in {
        "whole": privacy.whole(1.0), "per_leaf": privacy.per_leaf(1.0),
        "per_row": privacy.per_row(0.5, touched=4), "adaptive": privacy.adaptive(1.0),
    }.items()
}  # fmt: skip

# Likewise with what is kept for noise that is correlated over rounds.
TURNS = privacy.in_order(2, clients=6)
PRIVATE |= {
    f"gaussian_mean(whole, {name})": lambda rule=rule: privacy.gaussian_mean(
        privacy.whole(1.0), 0.0, 6, rule.over(9, TURNS)
    )
    for name, rule in {
        "blt": privacy.blt(), "tree": privacy.tree(),
    }.items()
}  # fmt: skip

# Of uploads under a seal, which the laws seal as engines do.
PRIVATE |= {
    f"secure_aggregation({rule.__name__})": lambda rule=rule: privacy.secure_aggregation(
        8.0, clients=6, protocol=rule()
    )
    for rule in (privacy.secagg, privacy.secagg_plus, privacy.light_secagg)
}
PRIVATE["secure_aggregation(skellam)"] = lambda: privacy.secure_aggregation(
    8.0, 6, protocol=privacy.light_secagg(), noise=privacy.skellam(100.0, 0.0, there=1)
)
PRIVATE["private_set_union(1)"] = lambda: privacy.private_set_union(
    privacy.secure_aggregation(8.0, clients=6, protocol=privacy.light_secagg()),
    threshold=1, clients=6, protocol=privacy.light_secagg(),
)  # fmt: skip


def masking(server: Server) -> Server:
    """A server of `prunable` models on any model, with the mask in its own state."""
    wrapped = lambda shared, mask: {"model": shared, "mask": trees.Frozen(mask)}

    def init(shared):
        parts = parameters({"model": shared})
        mask = {path: jnp.ones(x.shape, bool) for path, x in parts.items()}
        return {"inner": server.init(wrapped(shared, mask)), "mask": mask}

    def apply(state, shared, update):
        inner, after = server.apply(
            state["inner"], wrapped(shared, state["mask"]), wrapped(update, None)
        )
        return {"inner": inner, "mask": after["mask"].value}, after["model"]

    return Server(init, apply)


def mined(server: Server) -> Server:
    """A server of `with_popular` models on any model, with what it mined in its own state."""
    wrapped = lambda shared, known: {"model": shared, "popular": trees.Frozen(known)}

    def init(shared):
        (table,) = rows.tables(shared)
        ids = jnp.full(2, table.shape[0], jnp.int32)
        known = {"ids": ids, "rows": jnp.zeros((2, table.shape[1]))}
        return {"inner": server.init(wrapped(shared, known)), "known": known}

    def apply(state, shared, update):
        inner, after = server.apply(
            state["inner"], wrapped(shared, state["known"]), wrapped(update, None)
        )
        return {"inner": inner, "known": after["popular"].value}, after["model"]

    return Server(init, apply)


def beside_attributes(server: Server) -> Server:
    """A server of `attributed` models on any model, with the attributes in its own state."""
    wrapped = lambda shared, known: {"model": shared, "attributes": trees.Frozen(known)}

    def init(shared):
        (table,) = rows.tables(shared)
        begun = models.attributed(
            models.fedmf(*table.shape[:1], width=table.shape[1]), np.eye(table.shape[0], 4)
        )
        known = begun.init(jax.random.key(0))[0]["attributes"].value
        return {"inner": server.init(wrapped(shared, known)), "known": known}

    def apply(state, shared, update):
        inner, after = server.apply(
            state["inner"], wrapped(shared, state["known"]), wrapped(update, None)
        )
        return {"inner": inner, "known": after["attributes"].value}, after["model"]

    return Server(init, apply)


SERVERS = {
    "step(1)": lambda: strategies.step(1.0),
    "step(0.5)": lambda: strategies.step(0.5),
    "stochastic_step(1)": lambda: strategies.stochastic_step(1.0),
    "scheduled_step(falling)": lambda: strategies.scheduled_step(lambda t: 1.0 / (1 + t)),
    "from_optax(sgd)": lambda: strategies.from_optax(optax.sgd(1.0)),
    "from_optax(adam)": lambda: strategies.from_optax(optax.adam(1e-2)),
    "from_optax(momentum)": lambda: strategies.from_optax(optax.sgd(0.5, momentum=0.9)),
    "fed_adagrad()": lambda: strategies.fed_adagrad(),
    "fed_adam()": lambda: strategies.fed_adam(),
    "fed_yogi()": lambda: strategies.fed_yogi(),
    "fed_avg_m()": lambda: strategies.fed_avg_m(0.5, 0.9),
    "fed_lion(0.01)": lambda: strategies.fed_lion(0.01),
    "attributing(step)": lambda: beside_attributes(strategies.attributing(strategies.step(1.0))),
    "mining(step)": lambda: mined(strategies.mining(strategies.step(1.0), rounds=1)),
    "pruning(step, 0.5, 3)": lambda: masking(strategies.pruning(strategies.step(1.0), 0.5, 3)),
}

# Local optimizers of a model with the groups `private` and `shared`.
LOCAL = {
    "sgd(0.5)": lambda: clients.sgd(0.5),
    "from_optax(momentum)": lambda: clients.from_optax(optax.sgd(0.1, momentum=0.9)),
    "from_optax(adam)": lambda: clients.from_optax(optax.adam(1e-2)),
    "accumulated(sgd, 2)": lambda: clients.accumulated(optax.sgd(0.5), 2),
    "scheduled(sgd)": lambda: clients.scheduled(clients.sgd, optax.constant_schedule(0.5)),
    "alternating(sgd)": lambda: adapters.alternating(clients.sgd(0.5), ("*/bias", "*/user")),
    "subspace(sgd, 4)": lambda: clients.subspace(clients.sgd(0.5), rank=4),
    "groups(private, shared)": lambda: clients.groups(
        {"private": clients.sgd(0.5), "shared": optax.adam(1e-2)}
    ),
}

# Losses of the next item, for states [B, L, D].
ITEM_LOSSES = {
    "sampled_bce()": lambda: models.sampled_bce(),
    "gbce(0.75)": lambda: models.gbce(0.75),
    "sampled_softmax()": lambda: models.sampled_softmax(),
    "log_q_softmax()": lambda: models.log_q_softmax(),
    "full_softmax()": lambda: models.full_softmax(),
    "cosine(sampled_softmax)": lambda: models.cosine(models.sampled_softmax(0.05)),
}

SMALL_CLICKS = {"sparse": 5, "dense": 3, "width": 4}
# name -> (model of (num_items, members), name in BATCHES or EXAMPLES that it trains on).
MODELS = {
    "fedmf(bce)": (lambda n, m: models.fedmf(n, m, width=8, scale=0.3), "pointwise(4)"),
    "fedmf(bpr)": (
        lambda n, m: models.fedmf(n, m, width=8, objective=models.bpr()),
        "pairwise(2)",
    ),
    "fedmf(squared_error)": (
        lambda n, m: models.fedmf(n, m, width=8, objective=models.squared_error()),
        "ratings()",
    ),
    "fedmf(summed)": (
        lambda n, m: models.fedmf(n, m, width=8, objective=models.summed(models.bce())),
        "counted(pointwise)",
    ),
    "fedmf(weighted)": (
        lambda n, m: models.fedmf(n, m, width=8, objective=models.weighted(models.bce())),
        "whole_catalogue()",
    ),
    "biased_mf()": (lambda n, m: models.biased_mf(n, m, width=8, scale=0.3), "pointwise(4)"),
    "feature_mf()": (
        lambda n, m: models.feature_mf(n, m, width=8, scale=0.3, **featured(n, m)),
        "pointwise(4)",
    ),
    "two_tower()": (
        lambda n, m: models.two_tower(n, m, 8, (6,), 0.3, **featured(n, m)),
        "pointwise(4)",
    ),
    "feature_deepfm()": (
        lambda n, m: models.feature_deepfm(n, m, 6, (6,), 0.3, **featured(n, m)),
        "pointwise(4)",
    ),
    "feature_dcn()": (
        lambda n, m: models.feature_dcn(n, m, 6, 1, 2, (6,), 0.3, **featured(n, m)),
        "pointwise(4)",
    ),
    "item_scores()": (lambda n, m: models.item_scores(n), "pointwise(4)"),
    "gmf()": (lambda n, m: models.gmf(n, m, width=8), "pointwise(4)"),
    "mlp()": (lambda n, m: models.mlp(n, m, width=8, layers=(8, 4)), "pointwise(4)"),
    "neumf()": (lambda n, m: models.neumf(n, m, width=8, layers=(8, 4)), "pointwise(4)"),
    "pfedrec()": (lambda n, m: models.pfedrec(n, m, width=8), "pointwise(4)"),
    "prunable(fedmf)": (
        lambda n, m: models.prunable(models.fedmf(n, m, width=8, scale=0.3)),
        "pointwise(4)",
    ),
    "contrastive(fedmf)": (
        lambda n, m: models.contrastive(models.fedmf(n, m, width=8, scale=0.3), 0.1, 3),
        "pointwise(4)",
    ),
    "with_popular(fedmf)": (
        lambda n, m: models.with_popular(models.fedmf(n, m, width=8, scale=0.3), 3),
        "pointwise(4)",
    ),
    "fedkd()": (
        lambda n, m: models.fedkd(n, m, width=8, shared_width=4, scale=0.3),
        "pointwise(4)",
    ),
    "mutual(fedmf, fedmf)": (
        lambda n, m: models.mutual(
            partial(models.fedmf, n, m, width=6), partial(models.fedmf, n, m, width=3)
        ),
        "pointwise(4)",
    ),
    "fedrap(0.1, 0.01)": (lambda n, m: models.fedrap(n, m, 8, 0.1, 0.01), "pointwise(4)"),
    "fedpergnn()": (lambda n, m: models.fedpergnn(n, m, width=8), "pointwise(4)"),
    "lightfr()": (lambda n, m: models.lightfr(n, m, width=8), "pointwise(4)"),
    "ifedrec()": (
        lambda n, m: models.ifedrec(n, m, 8, (6,), item_features=np.eye(n, 4)),
        "pointwise(4)",
    ),
    "attributed(fedmf)": (
        lambda n, m: models.attributed(models.fedmf(n, m, width=8, scale=0.3), np.eye(n, 4)),
        "pointwise(4)",
    ),
    "hetefedrec()": (
        lambda n, m: models.hetefedrec(n, m, widths=(4, 8), decorrelation=0.1),
        "pointwise(4)",
    ),
    "f2mf()": (lambda n, m: models.f2mf(n, m, width=8, scale=0.3), "pointwise(4)"),
    "grouped(fedmf)": (
        lambda n, m: models.grouped(models.fedmf(n, m, width=8, scale=0.3), np.ones((2, m, 3))),
        "pointwise(4)",
    ),
    "gpfedrec()": (lambda n, m: models.gpfedrec(n, m, width=8), "pointwise(4)"),
    "gpfedrec_rows()": (lambda n, m: models.gpfedrec_rows(n, m, width=8), "pointwise(4)"),
    "supervised_contrastive(pfedrec)": (
        lambda n, m: models.supervised_contrastive(models.pfedrec(n, m, width=8), anchors=5),
        "pointwise(4)",
    ),
    "guided(fedmf)": (
        lambda n, m: models.guided(models.fedmf(n, m, width=8, scale=0.3), 0.1),
        "pointwise(4)",
    ),
    "text_tower()": (
        lambda n, m: models.text_tower(n, m, **text(n), layers=(6,), width=8, scale=0.3),
        "pointwise(4)",
    ),
    "text_and_rows()": (
        lambda n, m: models.text_and_rows(n, m, **text(n), width=8, scale=0.3),
        "pointwise(4)",
    ),
    "text_encoder()": (
        lambda n, m: models.text_encoder(n, m, **text(n), rank=2, alpha=0.5, width=8, scale=0.3),
        "pointwise(4)",
    ),
    "text_encoder(private B)": (
        lambda n, m: models.text_encoder(
            n, m, **text(n), rank=2, alpha=0.1, b="private", width=8, scale=0.3
        ),
        "pointwise(4)",
    ),
    **{
        f"text_encoder({name})": (
            lambda n, m, name=name: models.text_encoder(
                n,
                m,
                tiny_bert.titles(n),
                tiny_encoders.folder(name),
                components=6,
                rank=2,
                alpha=0.5,
                width=8,
                scale=0.3,
            ),
            "pointwise(4)",
        )
        for name in ("modernbert", "t5")
    },
    "sasrec()": (
        lambda n, m: models.sasrec(n, m, width=8, length=6, layers=1, dropout=0.1),
        "sequences(6, 4)",
    ),
    "sasrec(full_softmax)": (
        lambda n, m: models.sasrec(n, m, 8, 6, 1, dropout=0.0, loss=models.full_softmax()),
        "sequences(6)",
    ),
    "bert4rec(gbce)": (
        lambda n, m: models.bert4rec(n, m, 8, 6, 1, dropout=0.0, loss=models.gbce(0.9)),
        "sequences(6, 4)",
    ),
    "gru4rec()": (lambda n, m: models.gru4rec(n, m, width=8, hidden=6), "sequences(6, 4)"),
    "hstu()": (lambda n, m: models.hstu(n, m, width=8, length=6, layers=1), "sequences(6, 4)"),
    "unisrec()": (
        lambda n, m: models.unisrec(n, m, **text(n), width=8, length=6, layers=1, dropout=0.1),
        "sequences(6, 4)",
    ),
    "text_sasrec()": (
        lambda n, m: models.text_sasrec(n, m, **text(n), width=8, length=6, layers=1, dropout=0.1),
        "sequences(6, 4)",
    ),
    "tiger()": (
        lambda n, m: models.tiger(
            n,
            m,
            tiny_bert.titles(n),
            tiny_bert.folder(),
            levels=2,
            codes=4,
            width=8,
            length=6,
            layers=1,
            dropout=0.1,
        ),
        "sequences(6)",
    ),
    "tiger_decoder()": (
        lambda n, m: models.tiger_decoder(
            n,
            m,
            tiny_bert.titles(n),
            tiny_llama.folder(),
            tiny_bert.folder(),
            levels=2,
            codes=4,
            opening="499",
            rank=4,
        ),
        "sequences(6)",
    ),
    "hybrid_sasrec()": (
        lambda n, m: models.hybrid_sasrec(
            n, m, **text(n), width=8, length=6, layers=1, dropout=0.1
        ),
        "sequences(6, 4)",
    ),
    "hybrid(fedmf, gmf)": (
        lambda n, m: models.hybrid(
            models.fedmf(n, m, width=6, scale=0.3), models.gmf(n, m, width=6), 0.6
        ),
        "pointwise(4)",
    ),
    "sasrec_from_texts()": (
        lambda n, m: models.sasrec_from_texts(
            n, m, tiny_bert.titles(n), tiny_bert.folder(), width=6, length=6, layers=1, dropout=0.1
        ),
        "sequences(6, 4)",
    ),
    "hstu_from_texts()": (
        lambda n, m: models.hstu_from_texts(
            n,
            m,
            tiny_bert.titles(n),
            tiny_bert.folder(),
            width=6,
            length=6,
            layers=1,
            dropout=0.1,
            loss=models.cosine(models.sampled_softmax(0.2)),
        ),
        "sequences(6, 4)",
    ),
    "transferred_sasrec()": (
        lambda n, m: models.transferred_sasrec(
            n,
            other_catalogue.folder(),
            m,
            tiny_bert.titles(n),
            tiny_bert.folder(),
            width=6,
            length=6,
            layers=1,
            dropout=0.1,
        ),
        "sequences(6, 4)",
    ),
    "transferred(fedmf)": (
        lambda n, m: models.transferred(
            models.fedmf(n, m, width=6, scale=0.3),
            n,
            other_catalogue.folder(),
            tiny_bert.titles(n),
            tiny_bert.folder(),
        ),
        "pointwise(4)",
    ),
    "text_rows(fedmf)": (
        lambda n, m: models.text_rows(
            models.fedmf(n, m, width=6, scale=0.3), n, tiny_bert.titles(n), tiny_bert.folder()
        ),
        "pointwise(4)",
    ),
    "yes_no(2 layers)": (
        lambda n, m: models.yes_no(tiny_llama.decoder(n + 1), (0, 1), rank=4),
        "pointwise(4, as prompts)",
    ),
    "yes_no_above(1 layer)": (
        lambda n, m: models.yes_no_above(
            tiny_llama.decoder(n + 1), (0, 1), tiny_llama.prompts(n), 1, rank=4
        ),
        "pointwise(4, as prompts)",
    ),
    "tallrec()": (
        lambda n, m: models.tallrec(
            tiny_llama.prompts(n), tiny_llama.folder(), 1, rank=4, answers=(" 498", " 499")
        ),
        "pointwise(4, as prompts)",
    ),
    "calibrated()": (
        lambda n, m: models.calibrated(
            tiny_llama.prompts(n), tiny_llama.folder(), 1, rank=4, answers=(" 498", " 499")
        ),
        "pointwise(4, as prompts)",
    ),
    "binary_codes()": (
        lambda n, m: models.binary_codes(tiny_llama.vectors(n), 8),
        "pointwise(4, as prompts)",
    ),
    "collm()": (
        lambda n, m: models.collm(
            tiny_llama.prompts(n),
            tiny_llama.vectors(n),
            tiny_llama.folder(),
            1,
            6,
            answers=(" 498", " 499"),
        ),
        "pointwise(4, as prompts)",
    ),
    "after_titles()": (
        lambda n, m: models.after_titles(
            tiny_llama.decoder(n + 1), [n], np.arange(n)[:, None], 8, rank=4
        ),
        "sequences(6)",
    ),
    "next_title()": (
        lambda n, m: models.next_title(
            [str(i) for i in range(n)], tiny_llama.folder(), opening="499", most=15, rank=4
        ),
        "sequences(6)",
    ),
    "frozen_at(lora, A)": (
        lambda n, m: models.frozen_at(adapted(n, m), "*lora_a"),
        "pointwise(4)",
    ),
    "private_at(lora, B)": (
        lambda n, m: models.private_at(adapted(n, m), "*lora_b"),
        "pointwise(4)",
    ),
    "with_core(lora)": (lambda n, m: models.with_core(adapted(n, m)), "pointwise(4)"),
    "started(fedmf)": (lambda n, m: begun(models.fedmf(n, m, width=8, scale=0.3)), "pointwise(4)"),
    "from_nnx(every role)": (
        lambda n, m: models.from_nnx(lambda rngs: Adapted(n, m, rngs)),
        "pointwise(4)",
    ),
    "dlrm(rows_each)": (
        lambda n, m: models.dlrm(n, bottom=(6,), top=(6,), **SMALL_CLICKS),
        "examples()",
    ),
    "dcn(hashed)": (
        lambda n, m: models.dcn(
            n, rank=2, deep=(6,), embedding=models.hashed(60, hashes=2), **SMALL_CLICKS
        ),
        "examples()",
    ),
    "deepfm(quotient_remainder)": (
        lambda n, m: models.deepfm(
            n, deep=(6,), embedding=models.quotient_remainder(16), **SMALL_CLICKS
        ),
        "examples()",
    ),
    "logistic(2)": (lambda n, m: models.logistic(2), "examples()"),
}

# Models that only a fit fills, and the fits; see tests/models/test_central.py.
FITTED = {
    "item_weights()": lambda n, m: models.item_weights(n, m),
    "attribute_scores()": lambda n, m: models.attribute_scores(n, m, np.eye(n, 4)),
    "attribute_weights()": lambda n, m: models.attribute_weights(n, m, 5, np.eye(n, 4)),
}
FITS = {
    "popularity()": lambda: models.popularity(),
    "attribute_popularity(1)": lambda: models.attribute_popularity(1.0),
    "attribute_neighbours()": lambda: models.attribute_neighbours(),
    "item_knn(5)": lambda: models.item_knn(5, 2.0),
    "ease(10)": lambda: models.ease(10.0),
    "ials()": lambda: models.ials(),
    "lightgcn()": lambda: models.lightgcn(),
}

# Batches of labelled examples, as `worlds.clicks` holds them.
EXAMPLES = {"examples()": examples}

# name -> (batches, examples of a client with n interactions).
BATCHES = {
    "pointwise(4)": (lambda: batches.pointwise(4), lambda n: 5 * n),
    "pointwise(4, as prompts)": (
        lambda: tiny_llama.as_prompts(batches.pointwise(4)),
        lambda n: 5 * n,
    ),
    "pointwise(0)": (lambda: batches.pointwise(0), lambda n: n),
    "pairwise(2)": (lambda: batches.pairwise(2), lambda n: 2 * n),
    "ratings()": (lambda: batches.ratings(), lambda n: n),
    "counted(pointwise)": (lambda: counted(batches.pointwise(4)), lambda n: 5 * n),
    "covered(pointwise)": (
        lambda: covered(batches.pointwise(4), 1.5),
        lambda n: 5 * n + 3 * n // 2,
    ),
    "part_of(pointwise)": (
        lambda: part_of(batches.pointwise(4), 1, 3),
        lambda n: 5 * ((n + 1) // 3),
    ),
    "support(pointwise)": (lambda: support(batches.pointwise(4)), lambda n: 5 * ((n + 1) // 2)),
    "query(pointwise)": (lambda: query(batches.pointwise(4)), lambda n: 5 * (n // 2)),
    "sequences(6)": (lambda: sequences(6), lambda n: int(n > 1)),
    "sequences(6, 4)": (lambda: sequences(6, 4), lambda n: int(n > 1)),
    "sequences(6, 4, popular_negatives)": (
        lambda: sequences(6, 4, drawn=popular_negatives()),
        lambda n: int(n > 1),
    ),
    "drawn_once(pointwise)": (lambda: drawn_once(batches.pointwise(4)), lambda n: 5 * n),
    "label_flip(pointwise)": (
        lambda: attacks.label_flip(batches.pointwise(4), LIARS),
        lambda n: 5 * n,
    ),
    "whole_catalogue()": (lambda: whole_catalogue(), lambda n: n),
}
# Of clients that are one user each.
ALONE = {"whole_catalogue()"}


def everything(table: dict):
    """`pytest.mark.parametrize` arguments: each entry under its name."""
    import pytest

    return [pytest.param(value, id=name) for name, value in table.items()]
