"""Figure S8: power-law fits on non-collapsed spectra, the highest third of RankMe in each method."""

import functools

import power_laws
import style

draw = functools.partial(power_laws.draw, third="highest")

if __name__ == "__main__":
    style.main(draw, "figure-S8")
