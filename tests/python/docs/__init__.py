"""What the documentation and the examples say is so."""
