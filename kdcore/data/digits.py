"""Scikit-learn's handwritten digits: the data set that is always there, for the first steps.

Nothing is downloaded: the 1,797 images come with scikit-learn, an optional extra.
"""

import torch
from torch.nn import functional as F

from kdcore.data.images import ArrayImages, ImageData, LabelledImages
from kdcore.data.split import TEST_SHARE, stratified_split
from kdcore.errors import DataError, missing_extra

BRIGHTEST = 16
SIDE = 32
SPLIT_SEED = 0


def load_digits() -> ImageData:
    """Return the digits as images ``[3, 32, 32]``, always split alike: a fifth is for testing.

    The 8x8 values 0 to 16 are scaled to 0 to 255 and to the size bilinearly; all three channels
    are equal.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(missing_extra("data.name = 'digits'", "scikit-learn", "digits")) from error
    bunch = datasets.load_digits()
    grey = torch.from_numpy(bunch.images).unsqueeze(1) * (255 / BRIGHTEST)
    large = F.interpolate(grey, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    pixels = large.round().to(torch.uint8).repeat(1, 3, 1, 1)
    targets = torch.from_numpy(bunch.target).to(torch.int64)
    classes = tuple(str(name) for name in bunch.target_names)
    kept, held = stratified_split(targets.tolist(), TEST_SHARE, SPLIT_SEED)
    train, test = (
        LabelledImages(ArrayImages(pixels[part]), targets[part], classes)
        for part in (torch.tensor(kept), torch.tensor(held))
    )
    return ImageData("digits", train, test)
