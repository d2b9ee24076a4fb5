"""How the clients of rounds are drawn, as far as accounting for privacy asks.

- `poisson_sampled`  each client takes part in a round with probability q: neighbours are data with
                     and without one client
- `fixed_size`       C of N clients, without replacement: neighbours have one client exchanged,
                     which moves a sum by 2 S
- `in_order`         each client takes part in every b-th round, whatever is drawn
- `separated`        between two rounds of a client there are at least b - 1 without it
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..check import at_least, below, fraction, positive


@dataclass(frozen=True)
class Sampling:
    """How the clients of a round are drawn.

    adjacency: what neighbours are, in words. clients: N. rate: q, where it is Poisson sampling, or
    None. size: places of a cohort, all of which are taken where there is no rate; None for N.
    slack: the probability that a round is not as the accountant assumes. separation: b, so that a
    client that takes part in a round takes part in none of the b - 1 after it; None where chance
    says. ordered: whether it is exactly b rounds later that it takes part again.
    """

    adjacency: str
    clients: int
    rate: float | None = None
    size: int | None = None
    slack: float = 0.0
    separation: int | None = None
    ordered: bool = False

    @property
    def expected(self) -> float:
        """Clients of a round, on average."""
        if self.rate is not None:
            return self.rate * self.clients
        if self.size is not None:
            return float(self.size)
        return self.clients / (self.separation or 1)

    @property
    def apart(self) -> int | None:
        """b, also of everybody in every round, which is b = 1; None where chance says."""
        everybody = self.rate == 1.0 and self.size is None
        return 1 if everybody else self.separation


def poisson_sampled(rate: float, clients: int, largest: int | None = None) -> Sampling:
    """Each client takes part in a round with probability `rate`, by itself.

    Args:
        rate: q, in (0, 1]; 1 where everybody takes part.
        clients: N.
        largest: places of a cohort, beyond which clients are left out by lot; None for N.

    Returns:
        A `Sampling` under which data with and without one client are neighbours.

    Raises:
        ValueError: for a rate outside (0, 1].

    Example:
        >>> from fedjax_rec import privacy
        >>> privacy.poisson_sampled(rate=0.1, clients=1000).adjacency
        'with and without one client'
    """
    positive("poisson_sampled", "rate", rate)
    fraction("poisson_sampled", "rate", rate)
    at_least("poisson_sampled", "clients", clients, 1)
    size = None if largest is None or largest >= clients else int(largest)
    nobody = (1 - rate) ** clients
    return Sampling("with and without one client", clients, float(rate), size, nobody)


def fixed_size(size: int, clients: int) -> Sampling:
    """`size` of `clients` clients, uniformly and without replacement.

    Args:
        size: C, below N.
        clients: N.

    Returns:
        A `Sampling` under which data with one client exchanged for another are neighbours.

    Raises:
        ValueError: for a size outside 1 to N - 1.

    Example:
        >>> from fedjax_rec import privacy
        >>> privacy.fixed_size(100, 1000).adjacency
        'one client exchanged for another'
    """
    at_least("fixed_size", "size", size, 1)
    below("fixed_size", "size", size, clients)
    return Sampling("one client exchanged for another", clients, size=size)


def in_order(period: int, clients: int) -> Sampling:
    """Each client takes part in every `period`-th round and in no other, in passes of one order.

    Args:
        period: b, rounds of a pass. 1 or more.
        clients: N, two or more for each round of a pass: a round in which nobody has data moves
            nothing, without noise.

    Returns:
        A `Sampling` under which data with and without those of one client, whose turns stay, are
        neighbours.

    Raises:
        ValueError: for a period below 1, and for fewer clients than two a round.

    Example:
        >>> from fedjax_rec import privacy
        >>> privacy.in_order(40, clients=6040).expected
        151.0
    """
    return replace(separated(period, clients), ordered=True)


def separated(separation: int, clients: int) -> Sampling:
    """Of any `separation` rounds in a row each client takes part in one at most.

    Args:
        separation: b. 1 or more.
        clients: N, two or more for each of so many rounds.

    Returns:
        A `Sampling` under which data with and without those of one client, whose turns stay, are
        neighbours.

    Raises:
        ValueError: for a separation below 1, and for fewer clients than two a round.

    Example:
        >>> from fedjax_rec import privacy
        >>> privacy.separated(40, clients=6040).apart
        40
    """
    at_least("separated", "separation", separation, 1)
    at_least("separated", "clients", clients, 2 * separation)
    words = "with and without the data of one client"
    return Sampling(words, clients, separation=int(separation))
