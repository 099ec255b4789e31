"""Prediction tables -> calibrated, blended, validated submission."""

import preprocessing.interrupts  # noqa: F401
