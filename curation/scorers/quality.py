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
            "blur": [float(cv2.Laplacian(grey, cv2.CV_16S).var()) for grey in greys],
            "exposure": [float(np.mean(grey)) / 255 for grey in greys],
        }
