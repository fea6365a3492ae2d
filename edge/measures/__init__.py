"""Slow measures: what an arm or a gait did over days and weeks, one second at a time and in bounded state."""
