"""Speed benchmarks on this machine."""
