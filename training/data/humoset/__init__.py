"""Recorded clips in HuMoSet's layout: ``video/``, ``reference_image/`` and the table ``video_caption.parquet``.

    recipe: HuMoSetSource(folder="...", index="...")        what a recipe names
    code:   HuMoSet("...", height=480, width=832, num_frames=97).clips([0, 1])

Bad samples are found once, reported with their reason, and skipped. Nothing heavy is imported before data is read.
"""

from training.data.humoset.dataset import HuMoSet, HuMoSetSource
from training.data.humoset.sample import BadSample
from training.data.humoset.table import Columns

__all__ = ["BadSample", "Columns", "HuMoSet", "HuMoSetSource"]
