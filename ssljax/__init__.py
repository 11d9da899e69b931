"""ssljax: what image transformations make a self-supervised model learn, and what they make it lose.

`Config` says what a run is, `run` trains and measures it; losses, transforms, metrics and methods are plain functions in the
submodules. Submodules are imported when they are first used, so `import ssljax` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssljax import (
        assign,
        augment,
        config,
        data,
        encoders,
        evaluate,
        flags,
        losses,
        methods,
        models,
        report,
        study,
        sweeps,
        train,
    )
    from ssljax.config import Config
    from ssljax.embedding import Embedding, embed
    from ssljax.errors import UserError
    from ssljax.forecast import dry_run
    from ssljax.pipeline import Study, run
    from ssljax.planning import plan

__version__ = "0.1.0"

_FROM = {
    "Config": "ssljax.config",
    "Embedding": "ssljax.embedding",
    "UserError": "ssljax.errors",
    "Study": "ssljax.pipeline",
    "dry_run": "ssljax.forecast",
    "embed": "ssljax.embedding",
    "plan": "ssljax.planning",
    "run": "ssljax.pipeline",
}
_SUBMODULES = (
    "assign", "augment", "config", "data", "encoders", "evaluate", "flags", "losses", "methods", "models", "report",
    "study", "sweeps", "train",
)  # fmt: skip

__all__ = [
    "Config", "Embedding", "Study", "UserError", "assign", "augment", "config", "data", "dry_run", "embed", "encoders",
    "evaluate", "flags", "losses", "methods", "models", "plan", "report", "run", "study", "sweeps", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _FROM:
        return getattr(importlib.import_module(_FROM[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"ssljax.{name}")
    raise AttributeError(f"module 'ssljax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
