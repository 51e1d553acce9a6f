"""Figure S9: power-law fits on collapsed spectra, the lowest third of RankMe in each method."""

import functools

import power_laws
import style

draw = functools.partial(power_laws.draw, third="lowest")

if __name__ == "__main__":
    style.main(draw, "figure-S9")
