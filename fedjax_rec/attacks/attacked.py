"""The seam for attackers who act together: an aggregator whose malicious uploads are replaced.

    u_m <- forge(u_1, ..., u_n, the model)  for m malicious,   and the rule of u_1, ..., u_n

One adversary holds all malicious clients of the run. It sees the model at the start of each round,
and every upload of the round as it arrives, before the rule does: more than anybody could who has
no hold of the server. Some attacks read less of it, and say so. It may know the rule, and try on
it what it is about to forge (`Sides.judged`). It remembers what it likes from round to round,
beside the rule's state.

What it forges stands in the place of uploads that were made, sent and billed: stages and the uplink
do not touch it, and a malicious client weighs what it weighed. Clients that were not there, and
clients without data, forge nothing. Uploads of honest clients stay as they are, to the bit. All
uploads of the round are listed, whatever the rule, unless it is a sum and the adversary reads none:
then lies are put in their place as uploads are added. How well the rule's verdicts find who lies is
told among the metrics of a run, see `detection`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax

from .. import rows, trees
from ..made import part
from ..rows import static
from ..types import Aggregator, PyTree, record
from .detection import found_of
from .malicious import Malicious


@record
class Sides:
    """Who is who among the clients of a round that weigh something, and what they are up against.

    lies, honest: bool[n]. client: int32[n], their ids.
    judged(key, update) -> update: what the rule would make of the round, were these its uploads,
        leaves [n, ...], for an adversary who knows the defence. What the rule draws comes of `key`,
        since nobody knows what the server will draw. None where there is no rule.
    """

    lies: jax.Array
    honest: jax.Array
    client: jax.Array
    judged: Callable[[jax.Array, PyTree], PyTree] | None = static(default=None)


@part
class Attack:
    """What an adversary makes of a round.

    forge(key, state, update, sides, now) -> (state, update): update has leaves [n, ...] without
        origin and factor; those of clients where `sides.lies` does not hold stay as they are, and
        what they hold where they are on no side is not to be looked at.
    init(shared) -> state: what it remembers.
    learn(state, now) -> state: of one that looks at the model alone, what it remembers after it has
        looked at that of a round in which one of its clients is there. Such a one draws nothing and
        reads no upload: `forge` sees what was learned, any of the round's clients at a time, None
        for a key and no rule, and leaves the state as it is. None for all others.
    """

    forge: Callable[..., tuple[PyTree, PyTree]]
    init: Callable[[PyTree], PyTree] = lambda shared: ()
    learn: Callable[..., PyTree] | None = None


def attacked(aggregator: Aggregator, attack: Attack, malicious: Malicious) -> Aggregator:
    """`aggregator`, of uploads among which those of malicious clients are forged.

    Args:
        aggregator: the rule that is attacked.
        attack: what is forged, such as `alie()`.
        malicious: whose uploads are.

    Returns:
        An `Aggregator` that lists uploads, or adds them where the rule does and the attack reads
        none (`pieck_uea`, `pieck_ipe`); where nobody is malicious, `aggregator` itself.

    Example:
        >>> from fedjax_rec import attacks
        >>> liars = attacks.drawn(num_clients=30, share=0.1)
        >>> rule = attacks.attacked(aggregate.median(), attacks.ipm(), liars)
        >>> strategy = strategies.fedmf(model, data.pointwise(4), aggregator=rule)
    """
    if malicious.nobody:
        return aggregator
    if attack.learn is not None and aggregator.additive is True and aggregator.seal is None:
        return _added(aggregator, attack, attack.learn, malicious)

    def init(shared):
        states = {"rule": aggregator.init(shared), "attack": attack.init(shared)}
        return {**states, "told": found_of(None, None, None)}

    def reduce(state, uploads, now):
        return {"uploads": replace(uploads, metrics={}, down=None), "client": now.client}

    def finish(key, state, summary, now):
        uploads, client = summary["uploads"], summary["client"]
        of_attack, of_rule = jax.random.split(key)
        lies, there = malicious.lies(client), uploads.weight > 0

        def ruled(key, update):
            forged = replace(uploads, update=update)
            found = aggregator.reduce(state["rule"], forged, replace(now, client=client))
            return aggregator.finish(key, state["rule"], found, now)

        judged = lambda key, update: ruled(key, update)[1]
        sides = Sides(lies & there, ~lies & there, client, judged)
        known = state["attack"]
        if attack.learn is not None:
            known = trees.select(sides.lies.any(), attack.learn(known, now), known)
        learned, update = attack.forge(of_attack, known, uploads.update, sides, now)
        after, made, verdicts = ruled(of_rule, update)
        told = found_of(verdicts, sides.lies, there)
        return {"rule": after, "attack": learned, "told": told}, made, verdicts

    return Aggregator(init, reduce, finish, additive=False)


def _added(
    aggregator: Aggregator, attack: Attack, learn: Callable[..., PyTree], malicious: Malicious
) -> Aggregator:
    """`attacked` of a rule that adds up, by one who reads no upload: chunk by chunk."""
    nothing = found_of(None, None, None)  # a sum gives no verdicts

    def init(shared):
        states = {"rule": aggregator.init(shared), "attack": attack.init(shared)}
        return {**states, "told": nothing}

    def reduce(state, uploads, now):
        there = uploads.weight > 0
        lies = malicious.lies(now.client) & there

        def forged():
            known = learn(state["attack"], now)
            sides = Sides(lies, there & ~lies, now.client)
            _, update = attack.forge(None, known, rows.deltas(uploads.update), sides, now)
            return aggregator.reduce(state["rule"], replace(uploads, update=update), now)

        def plain():
            return aggregator.reduce(state["rule"], uploads, now)

        return {"rule": jax.lax.cond(lies.any(), forged, plain), "lies": lies.sum()}

    def finish(key, state, summary, now):
        after, made, verdicts = aggregator.finish(key, state["rule"], summary["rule"], now)
        known = state["attack"]
        known = trees.select(summary["lies"] > 0, learn(known, now), known)
        return {"rule": after, "attack": known, "told": nothing}, made, verdicts

    return Aggregator(init, reduce, finish)
