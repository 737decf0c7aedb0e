"""Fused operations with a PyTorch reference beside each: one folder per op, the folder name is the op name everywhere.

Importing an op imports neither Triton nor the compiled module; ``registry`` loads those when a tensor on a GPU asks.
``from humo_rt.kernels.guided_update import guided_update``.

The folder is installed as ``humo_rt.kernels`` and works under no other name: a top-level ``kernels`` belongs to
Hugging Face. transformers looks for that one by importing it and reading its version, and in a checkout finds this
folder. So under that name it may not fail at import: it says version 0, too old to be used, and refuses the rest.
"""

if __name__ != "humo_rt.kernels":
    __version__ = "0"
    __path__ = []

    def __getattr__(name: str) -> object:
        raise ImportError(
            f"{__name__}.{name}: this folder is the package humo_rt.kernels; install humo_rt (pip install -e .)"
        )
