"""Laws of every model that ships, those of `fedjax_rec.testing`, by turns."""

import pytest
from registry import ALONE, BATCHES, EXAMPLES, MODELS
from rotating import in_turn
from worlds import clicks, named

from fedjax_rec import testing

# Language models are slow at any rate; the others learn at the rate of `check_model`.
RATES = {"fedmf(bpr)": 0.05}


@pytest.mark.parametrize("name", in_turn(MODELS, 24))
def test_models_keep_their_laws(name):
    make, examples = MODELS[name]
    labelled = examples in EXAMPLES
    kind = EXAMPLES[examples]() if labelled else BATCHES[examples][0]()
    dataset = clicks() if labelled else named("whole") if examples in ALONE else None
    testing.check_model(
        lambda num_items, members: make(num_items, members), examples=kind, dataset=dataset
    )
