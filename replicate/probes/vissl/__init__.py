"""The probes of VISSL itself (0.1.6), run as a subprocess in an environment of its own: `make setup-vissl`.

settings (what VISSL is told) -> job (a folder with its file lists, weights and overrides) -> worker (in VISSL's
environment, under the shims) -> outcome (what it wrote, checked, as rows of accuracy.csv).
"""
