"""The zoo: one short file per architecture, over the engine in models/finetuning."""

import sys
from pathlib import Path

# Python puts the folder of a script first on its path. Then pandas, which tries `import bottleneck`, would find ours.
_FOLDER = str(Path(__file__).resolve().parent)
sys.path[:] = [entry for entry in sys.path if entry != _FOLDER]
