"""Programs that the benchmarks start as separate processes."""
