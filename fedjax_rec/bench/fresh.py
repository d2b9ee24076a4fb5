"""What is measured in a process of its own: devices of a CPU are told before anything is computed,
and the peak of memory is that of a process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def in_fresh_process(module: str, call: str) -> Any:
    """What `call`, of a function of `fedjax_rec.bench.<module>`, returns there, as JSON has it.

    Raises RuntimeError with the last line of what it says where it fails.
    """
    script = (
        f"import json; from fedjax_rec.bench import {module}; print(json.dumps({module}.{call}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])
