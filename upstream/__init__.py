"""The receiving side: collector service and episode database."""
