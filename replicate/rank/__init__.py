"""RankMe and its comparators: exact, streamed, mergeable, with error bars.

    from replicate.rank import RankMe                  # a torchmetrics Metric, for a training loop
    from replicate.rank import estimators, spectrum    # numpy only: pure functions, and the streamed spectrum

The Metrics (`metric`) are imported when first asked for, since torchmetrics takes seconds.
"""

METRICS = ("RankMe", "ClassicalRank", "EffectiveRank", "StableRank", "ParticipationRatio", "NESum", "PseudoConditionNumber",
           "AlphaReQ", "AlphaReQFull", "SelfCluster", "Coherence", "CLID", "LiDAR")  # fmt: skip


def __getattr__(name: str):
    if name in METRICS:
        from replicate.rank import metric

        return getattr(metric, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *METRICS])
