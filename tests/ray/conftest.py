"""The fixtures of the backends' suite, and a small spec."""

from tests.backends.conftest import ray_cluster, undisturbed  # noqa: F401
from tests.launch.conftest import write_spec  # noqa: F401
