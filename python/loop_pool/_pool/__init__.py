"""Several loops as one pool: its lifecycle, and work that runs on any loop."""
