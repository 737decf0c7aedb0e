"""Whether a graph can serve a request, asked before anything is encoded.

Knows requests and guidance; nothing of files or runtimes.
"""

from __future__ import annotations

from humo_rt.request import GenerationRequest
from humo_rt.sampling.guidance import GuidanceTable
from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.graph_dit import GraphDiT, require_one_speaker


def require_served(graph: GraphDiT, request: GenerationRequest, table: GuidanceTable) -> None:
    """``ValueError`` for what ``graph`` cannot do of a validated ``request`` under ``table``, guidance for its mode."""
    require_one_speaker(len(request.audios))
    predicts = request.predicts_faces
    graph.require_parts(face_mask=predicts or request.face_weights is not None, return_face_mask=predicts)
    frames, height, width = request.latent_size
    frames += max(1, len(request.images))
    counts = branch_counts(table, request.branch_batch_size, reused=request.guidance_reuse is not None)
    # The largest first: what is built for it serves the others.
    graph.require_sizes(
        Size(branches=count, frames=frames, height=height, width=width) for count in sorted(counts, reverse=True)
    )


def branch_counts(table: GuidanceTable, branch_batch_size: int | None, *, reused: bool) -> set[int]:
    """How many branches a forward may have. ``reused``: any of a row's branches may be left out of a step."""
    rows = {len(row.weights) for row in table.rows}
    steps = range(1, max(rows) + 1) if reused else rows
    forwards = set()
    for branches in steps:
        size = min(branch_batch_size or branches, branches)
        forwards |= {size, branches % size} - {0}
    return forwards
