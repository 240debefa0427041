"""How processes find each other: a store in which nothing is left from those before them.

After a lost process `torchrun` starts all of them again on the store that it keeps, and PyTorch
looks for the others under the same keys. A process that comes first would read the address of one
that is gone, and be refused.
"""

import time
from datetime import timedelta
from uuid import uuid4

from torch.distributed import DistStoreError
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

PAUSE = 0.02
"""Seconds between two looks at who has come."""


def meet(timeout: timedelta) -> tuple[Store, int, int]:
    """Return a store that is these processes' own, with this one's rank and their number.

    Each process says a word that nobody said before; the first answers each word with the name of
    the store, so that only those who are there now learn it.

    Args:
        timeout: how long to wait for the others.

    Raises:
        DistError: they did not all come in time.
    """
    store, rank, count = next(rendezvous("env://", timeout=timeout))
    if rank == 0:
        name = _call(store, count, timeout)
    else:
        word = uuid4().hex
        store.set(f"kdcore/word/{rank}", word)
        name = store.get(f"kdcore/name/{word}").decode()
        store.set(f"kdcore/here/{name}/{rank}", "")
    return PrefixStore(f"kdcore/{name}", store), rank, count


def _call(store: Store, count: int, timeout: timedelta) -> str:
    """Answer the others until all of them know the name; return it."""
    name, until = uuid4().hex, time.monotonic() + timeout.total_seconds()
    missing = set(range(1, count))
    while missing:
        for rank in missing:
            if store.check([f"kdcore/word/{rank}"]):
                word = store.get(f"kdcore/word/{rank}").decode()
                store.set(f"kdcore/name/{word}", name)
        missing = {rank for rank in missing if not store.check([f"kdcore/here/{name}/{rank}"])}
        if missing and time.monotonic() > until:
            raise DistStoreError(f"Timed out waiting for processes {sorted(missing)}")
        time.sleep(PAUSE)
    return name
