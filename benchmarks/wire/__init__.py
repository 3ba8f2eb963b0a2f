"""The second table: what the wire engine is to reach. See the README of the benchmarks."""
