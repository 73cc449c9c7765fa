"""Requests over HTTP -> predictions: plain ones, and those of Label Studio's ML backend."""
