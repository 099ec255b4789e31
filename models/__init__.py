"""The zoo: one short file per architecture, over the engine in models/finetuning."""

from typing import Any

import common  # noqa: F401


def __getattr__(name: str) -> Any:
    """`from models import finetune`, loaded only when it is asked for."""
    if name == "finetune":
        from models.finetuning.interface import finetune

        return finetune
    raise AttributeError(f"module 'models' has no attribute {name!r}")
