"""How well a sound follows the loudness curve that was drawn for it."""

from collections.abc import Sequence

import numpy as np

LOWEST_DRAWN_DB = -60.0  # lower edge of the canvas in assets/draw.js
NOTICEABLE_DB = 0.5  # of attenuation
LARGE_ERROR_DB = 3.0


def curve_error(target: Sequence[float], achieved: Sequence[float]) -> float:
    """Return the mean distance in dB of two loudness curves, each evenly spaced over the sound.

    Values below `LOWEST_DRAWN_DB` count as that.
    """
    at = np.linspace(0, 1, len(achieved))
    curves = np.interp(at, np.linspace(0, 1, len(target)), target), np.asarray(achieved)
    wanted, reached = (np.maximum(curve, LOWEST_DRAWN_DB) for curve in curves)
    return float(np.abs(wanted - reached).mean())


def curve_report(error_db: float, turned_down_db: float) -> str:
    """Return a sentence that says by how many dB a curve was missed and why, or "" if it was met.

    Args:
        error_db: The `curve_error` of the sound.
        turned_down_db: By how many dB the sound was turned down to full scale.
    """
    if turned_down_db >= NOTICEABLE_DB:
        return (
            f"The sound stays {turned_down_db:.1f} dB below your curve, because louder peaks would exceed full scale. "
            "Draw the curve lower to follow it exactly."
        )
    if error_db >= LARGE_ERROR_DB:
        return f"The sound misses your curve by {error_db:.1f} dB on average. More steps may bring it closer."
    return ""
