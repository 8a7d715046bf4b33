"""How hard it is to break: what runs for an hour or for thousands of steps, and writes down what it found.

Run from the root of the repository: `python -m robustness fuzz`, `soak`, `saves` or `numerics`. Each writes one file of
JSON, of which the page docs/results/reliability.md is made; the tests in tests/robustness run a short form of each.
"""
