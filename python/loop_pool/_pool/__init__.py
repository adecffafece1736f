"""Several loops as one pool: its life, and what runs on whichever loop is free."""
