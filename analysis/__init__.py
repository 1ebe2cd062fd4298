"""What the records say: estimates, verdicts, tables, figures and one page. Reads MLflow, never a
run directory. `analysis.results("table3")` is a data frame with a row for each seed.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """`results`, which imports pandas, when it is first asked for."""
    if name == "results":
        return importlib.import_module(f"{__name__}.frame").results
    raise AttributeError(f"module 'analysis' has no attribute '{name}'")
