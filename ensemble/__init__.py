"""Prediction tables -> calibrated, blended, validated submission."""

import common.interrupts  # noqa: F401
