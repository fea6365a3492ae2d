"""Unsupervised detectors with one interface: fitted on an unlabelled prefix, then streaming, causal, numpy alone."""
