"""FedJAX's compressors, timed in FedJAX's own environment on clients of N(0, 1) coordinates.

A standalone script that imports nothing from fedjax_rec except the clock beside it;
`fedjax_rec.bench.compress` runs it:

    python fedjax_compressors.py --clients 64 --coordinates 131072 --repeats 5

Methods, all of `fedjax.aggregators.compression` (0.0.17): `uniform_stochastic_quantizer` and
`rotated_uniform_stochastic_quantizer` with 16 levels (Suresh et al., 2017, arXiv:1611.00429; the
rotation's key is the same for all clients of a round) and `structured_drive_quantizer` (Vargaftik
et al., 2021, arXiv:2105.08339; a rotation for each client). Each maps a vector to its decoded
approximation: FedJAX packs nothing, and the bits are those that it claims, a client.

Each is timed in three forms, and the quickest is the fair one to compare with:

    apply   the aggregator's `apply` as users call it: a Python loop over clients, averaging too
    vmap    one jitted `jax.vmap` of the functions that `apply` calls; nothing is averaged
    map     the same in one jitted `jax.lax.map`, a client at a time, kind to a CPU's caches

Those functions are `uniform_stochastic_quantize_pytree`, `drive_pytree`,
`structured_rotation_pytree` and `inverse_structured_rotation_pytree`. The last computes with a
shape that it takes as an array, so it compiles only with a constant shape and inside
`jax.ensure_compile_time_eval`. Keys are arguments, so that no random sign becomes a constant.
"""

import argparse
import importlib.metadata
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from timing import Timing, repeat

LEVELS = 16


def compressors(compression, hadamard) -> dict:
    """Of each method its aggregator, made from a key, and the same for one client.

    The latter is called with (shared key, the client's key, delta [d]) and returns decoded [d].
    """

    def uniform(shared, key, delta):
        return compression.uniform_stochastic_quantize_pytree(delta, LEVELS, key)

    def rotated(shared, key, delta):
        with jax.ensure_compile_time_eval():  # shapes only: the keys are traced
            turned, _ = hadamard.structured_rotation_pytree(delta, shared)
            sent = compression.uniform_stochastic_quantize_pytree(turned, LEVELS, key)
            shape = np.array(delta.shape)
            return hadamard.inverse_structured_rotation_pytree(sent, shared, shape)

    def drive(shared, key, delta):
        with jax.ensure_compile_time_eval():
            turned, _ = hadamard.structured_rotation_pytree(delta, key)
            sent = compression.drive_pytree(turned)
            return hadamard.inverse_structured_rotation_pytree(sent, key, np.array(delta.shape))

    return {
        "uniform_stochastic_quantizer": (
            lambda key: compression.uniform_stochastic_quantizer(LEVELS, key),
            uniform,
        ),
        "rotated_uniform_stochastic_quantizer": (
            lambda key: compression.rotated_uniform_stochastic_quantizer(LEVELS, key),
            rotated,
        ),
        "structured_drive_quantizer": (compression.structured_drive_quantizer, drive),
    }


def vmapped(compress):
    """`compress` for all clients at once."""
    return lambda shared, keys, deltas: jax.vmap(compress, (None, 0, 0))(shared, keys, deltas)


def mapped(compress):
    """`compress` for one client after the other, in one loop of XLA."""

    def every(shared, keys, deltas):
        return jax.lax.map(lambda client: compress(shared, *client), (keys, deltas))

    return every


def figures(timing: Timing, coordinates: int) -> dict[str, float]:
    """What is printed of a timing; `coordinates` of all clients together."""
    return {
        "first_seconds": timing.first,
        "cpu_seconds": timing.cpu,
        "wall_seconds": timing.wall,
        "cpu_nanoseconds": 1e9 * timing.cpu / coordinates,
        "wall_nanoseconds": 1e9 * timing.wall / coordinates,
    }


def squared_error(deltas: jax.Array, decoded: jax.Array) -> float:
    """Mean over clients of |C(x) - x|^2 / |x|^2, on at most 64 clients to save memory."""
    x, y = np.asarray(deltas[:64], np.float64), np.asarray(decoded[:64], np.float64)
    return float(np.mean(np.sum((y - x) ** 2, axis=1) / np.sum(x**2, axis=1)))


def run(args: argparse.Namespace) -> dict:
    """Time every method in every form; returns what is printed."""
    if min(args.clients, args.coordinates, args.repeats) < 1:
        sys.exit("--clients, --coordinates and --repeats must be 1 or more.")
    here = Path(__file__).resolve().parent  # whose files have names of others'
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    jax.tree_map = jax.tree.map  # which jax 0.10 no longer has
    from fedjax.aggregators import compression, walsh_hadamard

    draw = np.random.default_rng(args.seed)
    deltas = draw.standard_normal((args.clients, args.coordinates), dtype=np.float32)
    clients = [(client, jnp.asarray(delta), 1.0) for client, delta in enumerate(deltas)]
    deltas = jnp.asarray(deltas)
    root, shared, stream = jax.random.split(jax.random.PRNGKey(args.seed), 3)
    keys = jax.random.split(stream, args.clients)
    size = args.clients * args.coordinates
    methods = {}
    for name, (make, compress) in compressors(compression, walsh_hadamard).items():
        aggregator = make(root)
        state = aggregator.init()
        timing = repeat(lambda of=aggregator, at=state: of.apply(clients, at)[0], args.repeats)
        forms: dict[str, dict] = {"apply": figures(timing, size)}
        error = 0.0
        for form, over in (("vmap", vmapped), ("map", mapped)):
            begin = time.perf_counter()
            compiled = jax.jit(over(compress)).lower(shared, keys, deltas).compile()
            compiling = time.perf_counter() - begin
            timing = repeat(lambda call=compiled: call(shared, keys, deltas), args.repeats)
            forms[form] = figures(timing, size)
            forms[form]["first_seconds"] += compiling
            forms[form]["temporary_bytes"] = compiled.memory_analysis().temp_size_in_bytes
            error = squared_error(deltas, compiled(shared, keys, deltas))
        bits = float(aggregator.apply(clients[:1], state)[1].num_bits)
        methods[name] = {"bits": bits, "squared_error": error, "forms": forms}
        for form, found in forms.items():
            print(f"{name} {form}: {found['cpu_nanoseconds']:.1f} CPU-ns", file=sys.stderr)
    return {
        "clients": args.clients,
        "coordinates": args.coordinates,
        "repeats": args.repeats,
        "methods": methods,
        "jax": jax.__version__,
        "fedjax": importlib.metadata.version("fedjax"),
        "device": f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}",
    }


def main() -> None:
    """Read the arguments, run, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--coordinates", type=int, default=2**17, help="of each client")
    parser.add_argument("--repeats", type=int, default=5, help="after the first call")
    parser.add_argument("--seed", type=int, default=0, help="of the data and of all keys")
    print(json.dumps(run(parser.parse_args())))


if __name__ == "__main__":
    main()
