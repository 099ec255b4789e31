"""Prediction tables -> calibrated, blended, validated submission."""

import common  # noqa: F401
