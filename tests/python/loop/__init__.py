"""One event loop: what it runs and when, descriptors, signals, threads, forks, its end."""
