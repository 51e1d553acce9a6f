"""Replication package of RankMe (Garrido, Balestriero, Najman, LeCun, ICML 2023, arXiv 2210.02885)."""

__version__ = "0.1.0"
