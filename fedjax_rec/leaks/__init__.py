"""What a round of federated recommendation gives away: attacks that see what the server sees.

- `overhear`: the messages of clients, from their bytes, and the `Truth` they are held against
- which items a user has: `touched`, `magnitudes`, `recurring`, `directions`, `membership`;
  `popularity`, which looks at no user's own message
- what a text client read: `tokens`, of adapters' gradients
- whether a user took part at all: `participation`, and `told_apart`
- who it is: `attribute`, of `sent_features` or `kept_features`
- whether a mechanism is as private as it is accounted for: `canaries`, `epsilon_below`
- `scored`, `auc`, `interval`: how well an attack did
"""

from .attributes import Told, attribute, kept_features, sent_features
from .canaries import Audited, canaries, epsilon_below, unlikely
from .directions import directions, projections
from .membership import membership
from .overheard import Message, Overheard, Truth, overhear, positives
from .participation import participation, told_apart
from .scores import Guess, Interval, Outcome, auc, interval, scored
from .tokens import tokens
from .touched import magnitudes, popularity, recurring, spoken_of, touched

__all__ = [
    "Audited",
    "Guess",
    "Interval",
    "Message",
    "Outcome",
    "Overheard",
    "Told",
    "Truth",
    "attribute",
    "auc",
    "canaries",
    "directions",
    "epsilon_below",
    "interval",
    "kept_features",
    "magnitudes",
    "membership",
    "overhear",
    "participation",
    "popularity",
    "positives",
    "projections",
    "recurring",
    "scored",
    "sent_features",
    "spoken_of",
    "tokens",
    "told_apart",
    "touched",
    "unlikely",
]  # fmt: skip
