"""Users who are forgotten: what they taught the model is taken out of it, all or most of it.

- exactly: a run without them, from the last state before any of them took part (`first_round`,
  `simulate.without`)
- by logs (FRU): clients keep the important rows of what they sent (`update_log`); the server goes
  back to its first model (`rolled_back`) and those who stay send it again, in the direction of a
  short training and as long as it was (`replay`)
- `logged_bytes`: what the logs take

What is left of them says `leaks.participation`; `fedjax-rec unlearn` does all of it to a run.
"""

from .log import Log, logged_bytes, update_log
from .replay import replay
from .rollback import first_round, rolled_back

__all__ = ["Log", "first_round", "logged_bytes", "replay", "rolled_back", "update_log"]
