"""What the benchmark scripts share: timing with its spread, the device's name, a table, a JSON file."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"


def timed(call: Callable[[], Any], *, repeats: int = 9, warm_up: int = 2) -> dict[str, float]:
    """Seconds of a call that returns arrays: median, and the quartiles as its spread."""
    for _ in range(warm_up):
        jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    low, median, high = statistics.quantiles(seconds, n=4)
    return {"seconds": median, "low": low, "high": high}


def device() -> dict[str, Any]:
    """Where this runs."""
    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def show(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Prints rows as an aligned table."""
    cells = [list(columns)] + [[_text(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths)))


def _text(value: Any) -> str:
    return (
        f"{value:,.3g}"
        if isinstance(value, float) and value < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


def write(name: str, rows: Sequence[dict[str, Any]], settings: dict[str, Any]) -> Path:
    """Writes results/<name>-<platform>.json."""
    RESULTS.mkdir(exist_ok=True)
    info = device()
    path = RESULTS / f"{name}-{info['platform']}.json"
    path.write_text(json.dumps({"device": info, "settings": settings, "rows": list(rows)}, indent=2) + "\n")
    print(f"written to {path}")
    return path
