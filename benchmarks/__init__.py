"""What it costs and how well it does it."""
