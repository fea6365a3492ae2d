"""Inference backends behind one small interface."""
