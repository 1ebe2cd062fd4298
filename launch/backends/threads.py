"""How many threads a worker computes with, and how these wait for each other."""

import os


def thread_environment(threads: int | str) -> dict[str, str]:
    """The environment variables of a worker that may use so many CPU threads.

    GNU's OpenMP, which torch brings, lets a thread that waits for the others *spin* on its core.
    Beside a busy neighbour that core is often the one the others need: two threads a worker then
    train at a tenth of the speed of one. PASSIVE lets them sleep. Whoever sets OMP_WAIT_POLICY
    keeps it.
    """
    count = str(threads)
    policy = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    return {"RM_THREADS": count, "OMP_NUM_THREADS": count, "OMP_WAIT_POLICY": policy}
