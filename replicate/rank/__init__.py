"""RankMe and its comparators: a streamed spectrum, and estimators as functions of it. numpy only, no torch."""
