"""Is it sharp and well exposed?"""

import cv2
import numpy as np

from curation.batch import Batch


class Quality:
    """`blur`: variance of the Laplacian at 512 px, low when blurred. `exposure`: mean luminance, 0 black to 1 white."""

    name = "quality"
    columns = ("blur", "exposure")
    identity = "laplacian512@2"

    def score(self, batch: Batch) -> dict[str, list[float]]:
        greys = batch.greys()
        return {
            "blur": [_variance(cv2.Laplacian(grey, cv2.CV_16S)) for grey in greys],
            "exposure": [cv2.mean(grey)[0] / 255 for grey in greys],
        }


def _variance(pixels: np.ndarray) -> float:
    """Of all of (h, w); OpenCV needs no copy in floats."""
    return float(cv2.meanStdDev(pixels)[1][0, 0]) ** 2
