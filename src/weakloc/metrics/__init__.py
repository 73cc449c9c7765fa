"""Predictions and truth in; every published number, its convention and its baselines out."""
