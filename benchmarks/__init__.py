"""What the feature store costs, beside what its users would pick instead: `python -m benchmarks --help`."""
