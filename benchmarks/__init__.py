"""Scripts that measure, each printing one table: `python -m benchmarks.decode` and so on."""
