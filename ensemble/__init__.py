"""Prediction tables -> calibrated, blended, validated submission."""
