"""Recordings to models. Only ``model`` and ``fit`` need torch; the simulator and the data sets do not."""
