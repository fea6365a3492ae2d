"""Models to what a board runs: export, parity proofs, the bundle."""
