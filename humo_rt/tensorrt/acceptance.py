"""Whether a graph can serve a request, asked before anything is encoded.

Knows requests; nothing of guidance, files or runtimes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from humo_rt.request import GenerationRequest
from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.graph_dit import GraphDiT, require_one_speaker


def require_served(graph: GraphDiT, request: GenerationRequest, sets: Iterable[Collection[str]]) -> None:
    """``ValueError`` for what ``graph`` cannot do of a valid ``request`` whose steps compute ``sets`` of branches."""
    require_one_speaker(len(request.audios))
    predicts = request.predicts_faces
    graph.require_parts(face_mask=predicts or request.face_weights is not None, return_face_mask=predicts)
    frames, height, width = request.latent_size
    frames += max(1, len(request.images))
    # The largest first: what is built for it serves the others.
    graph.require_sizes(
        Size(branches=count, frames=frames, height=height, width=width)
        for count in sorted(branch_counts(sets, request.branch_batch_size), reverse=True)
    )


def branch_counts(sets: Iterable[Collection[str]], branch_batch_size: int | None) -> set[int]:
    """How many branches the forwards have that compute ``sets``."""
    forwards = set()
    for branches in map(len, sets):
        size = min(branch_batch_size or branches, branches)
        forwards |= {size, branches % size} - {0}
    return forwards
