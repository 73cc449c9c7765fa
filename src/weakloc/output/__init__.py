"""Predictions to files that people use, see and trust."""
