"""ByzFL's aggregators, timed in ByzFL's own environment on vectors of N(0, 1) float32.

A standalone script that imports nothing from fedjax_rec; `fedjax_rec.bench.robust` runs it:

    python byzfl_workload.py --clients 1024 --coordinates 100000 --f 51 --repeats 3 Median TrMean

Each is timed on a NumPy array and on a Torch tensor of the same numbers, as ByzFL takes both, and
the quicker is the fair one to compare with; distances between many arrays of NumPy, which take
SciPy minutes, are left out. CPU seconds are of the process, of one thread of Torch.
"""

import argparse
import importlib
import json
import statistics
import sys
import time
from unittest.mock import MagicMock

import numpy as np

APART, MANY = ("Krum", "MultiKrum", "NNM, TrMean"), 256
UNUSED = ("torchvision", "seaborn", "matplotlib", "matplotlib.pyplot")


def import_byzfl():
    """ByzFL; with empty modules for the plots and pictures that its front imports, where they are
    not installed: its aggregators use none of them."""
    for name in UNUSED:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = MagicMock()
    return importlib.import_module("byzfl")


def rules(f: int) -> dict:
    """name -> (the aggregator, what is called first on the vectors)."""
    byzfl = import_byzfl()
    plain = lambda make: (make, lambda x: x)
    return {
        "Average": plain(byzfl.Average),
        "Median": plain(byzfl.Median),
        "TrMean": plain(lambda: byzfl.TrMean(f=f)),
        "Meamed": plain(lambda: byzfl.Meamed(f=f)),
        "GeometricMedian": plain(lambda: byzfl.GeometricMedian(nu=0.1, T=3)),
        "Krum": plain(lambda: byzfl.Krum(f=f + 1)),
        "MultiKrum": plain(lambda: byzfl.MultiKrum(f=f + 1)),
        "CenteredClipping": plain(lambda: byzfl.CenteredClipping(tau=100.0)),
        "MDA": plain(lambda: byzfl.MDA(f=f)),
        "CAF": plain(lambda: byzfl.CAF(f=f)),
        "NNM, TrMean": (lambda: byzfl.TrMean(f=f), byzfl.NNM(f=f)),
        "Bucketing, TrMean": (lambda: byzfl.TrMean(f=f), byzfl.Bucketing(s=2)),
        "Clipping, Average": (byzfl.Average, byzfl.Clipping(c=100.0)),
    }


def timed(make, before, vectors, repeats: int) -> dict[str, float]:
    cpu, wall = [], []
    for _ in range(repeats):
        rule = make()
        c, w = time.process_time(), time.perf_counter()
        rule(before(vectors))
        cpu.append(time.process_time() - c)
        wall.append(time.perf_counter() - w)
    return {"cpu_seconds": statistics.median(cpu), "wall_seconds": statistics.median(wall)}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("clients", "coordinates", "f", "repeats"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("names", nargs="+")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((args.clients, args.coordinates), dtype=np.float32)
    found = {}
    for name in args.names:
        make, before = rules(args.f)[name]
        forms = {}
        for form, x in (("numpy", vectors), ("torch", torch.from_numpy(vectors))):
            if form == "numpy" and name in APART and args.clients > MANY:
                continue
            try:
                forms[form] = timed(make, before, x, args.repeats)
            except (RuntimeError, TypeError, ValueError) as error:
                print(f"{name} {form}: {error}", file=sys.stderr)
        found[name] = forms
        print(name, forms, file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
