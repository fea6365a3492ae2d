"""Reports for people: one page that needs nothing else, to be read on a screen or printed."""
