"""Capture: taps on routers and residual streams of transformers models."""
