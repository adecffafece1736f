"""`loop-pool serve`: applications on all loops, options, ends, and how it is deployed."""
