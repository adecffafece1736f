"""What develops the package: `tools/`, `benches/python`, and the servers that tests start."""
