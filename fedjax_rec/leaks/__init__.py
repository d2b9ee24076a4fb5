"""What a round of federated recommendation gives away: attacks that see what the server sees.

- `overhear`: the messages of clients, from their bytes; `positives`: what is true of clients
- which items a user has: `touched`, `magnitudes`, `recurring`, `directions`; `popularity`, which
  looks at no user's own message
- `scored`, `auc`, `interval`: how well an attack did
"""

from .directions import directions, projections
from .overheard import Message, Overheard, Truth, overhear, positives
from .scores import Guess, Interval, Outcome, auc, interval, scored
from .touched import magnitudes, popularity, recurring, spoken_of, touched

__all__ = [
    "Guess", "Interval", "Message", "Outcome", "Overheard", "Truth", "auc", "directions",
    "interval", "magnitudes", "overhear", "popularity", "positives", "projections", "recurring",
    "scored", "spoken_of", "touched",
]  # fmt: skip
