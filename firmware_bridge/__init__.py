"""Bytes to samples: sans-IO decoders, links, clock mapping, the reference wire protocol, emulated devices."""
