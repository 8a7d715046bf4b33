"""This project's own measurements: rivals, the list of cases, and the bars that we set ourselves.

How to measure is in `adntn.benchmarking`, which every installation has (`adntn bench`). Run from the root of the
repository: `python -m benchmarks`, `python -m benchmarks.acceptance`, `python -m benchmarks.table`.
"""
