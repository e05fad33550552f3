"""The benchmarks, and what they share. Only the standard library."""
