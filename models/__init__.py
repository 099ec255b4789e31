"""The zoo: one short file per architecture, over the engine in models/finetuning."""

import sys
from pathlib import Path
from typing import Any

import common.interrupts  # noqa: F401

# Python puts the folder of a script first on its path. Then pandas, which tries `import bottleneck`, would find ours.
_FOLDER = str(Path(__file__).resolve().parent)
sys.path[:] = [entry for entry in sys.path if not entry or str(Path(entry).resolve()) != _FOLDER]


def __getattr__(name: str) -> Any:
    """`from models import finetune`, loaded only when it is asked for."""
    if name == "finetune":
        from models.finetuning.interface import finetune

        return finetune
    raise AttributeError(f"module 'models' has no attribute {name!r}")
