"""The tests: Rust ones beside this file, those of the Python package in `python/`."""
