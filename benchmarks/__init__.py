"""How fast Surefoot is, and beside whom: `python -m benchmarks` (see docs/benchmarks.md)."""
