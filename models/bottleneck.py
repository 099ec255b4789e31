"""Bottleneck features: a linear classifier on pooled features of a frozen network, in place of fine-tuning it.

    python models/bottleneck.py --architecture inception_v3 --classifier svm

The features of all images are computed in one pass and kept in the cache, so that another classifier or another fold
costs seconds. What comes out is a model of the run like any other, with the classifier as the network's head.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the packages, in place of those in this folder

    from pipeline.train import bottleneck_main

    bottleneck_main(__doc__ or "")
