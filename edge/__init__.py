"""Samples to verdicts to episodes to upstream: everything that runs on the board."""
