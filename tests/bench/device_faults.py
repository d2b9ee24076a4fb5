"""Parts for `test_device.py` that go wrong, each after a row."""

import os
import time

from fedjax_rec.bench.row import Row


def part(fault):
    def play(tiny):
        yield Row("", "before", 1.5 if tiny else 2.5, "s", "")
        fault()

    return play


def failing():
    raise RuntimeError("out of\nmemory | and luck")


PARTS = {
    "good": part(lambda: None),
    "raises": part(failing),
    "dies": part(lambda: os._exit(3)),
    "hangs": part(lambda: time.sleep(60)),
    "last": part(lambda: print('{"row": "printed by a library"}')),
    "never": part(lambda: None),
}
