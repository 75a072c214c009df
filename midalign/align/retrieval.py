"""Does a sentence find its translation among the candidates?"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from midalign.align.objective import centre


def accuracy(foreign: Tensor, english: Tensor, *, centred: bool = True) -> float:
    """Share of sentences whose nearest candidate by cosine is their translation, mean of both directions.

    Args:
        foreign, english: (pairs, hidden) pooled states, row i parallel to row i.
        centred: subtract each side's mean first, which removes what marks the language.

    Returns:
        Between 0 and 1; a tie with a wrong candidate counts as not found.
    """
    sides = (foreign.float(), english.float())
    rows, columns = (F.normalize(centre(side) if centred else side, dim=-1) for side in sides)
    similarity = rows @ columns.T
    own = similarity.diagonal()
    others = similarity.masked_fill(torch.eye(len(own), dtype=torch.bool, device=own.device), -torch.inf)
    found = torch.cat([own > others.amax(1), own > others.amax(0)])
    return float(found.float().mean())
