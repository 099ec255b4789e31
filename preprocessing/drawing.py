"""matplotlib without anything that a user has configured."""

import logging
import os
import sys


def load_matplotlib() -> None:
    """Imports matplotlib without a display and with its own defaults. Call it before other imports of matplotlib.

    Keras imports matplotlib too. A notebook's kernel keeps its backend and styles: its user draws there.
    """
    if "ipykernel" in sys.modules:
        return
    os.environ["MPLBACKEND"] = "Agg"  # one that notebooks set may not be installed here
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcdefaults()  # nothing of a matplotlibrc
