"""The alignment loss of a recipe, with what it learns and remembers."""

import math

import torch
from torch import Tensor, nn

from midalign.align.objective import centre, cosine_distance, info_nce, squared_distance, stop_gradient
from midalign.train.recipe import Align

MOMENTUM = 0.9
"""What a language's running mean keeps of itself when a batch comes in."""


class AlignmentLoss(nn.Module):
    """From pooled states to a loss; `log_temperature` learns, the running means of languages follow.

    In eval mode the means stay as they are. A language without one is centred by its side's
    mean in the batch.
    """

    means: Tensor
    """(layers, languages and English, hidden), fp32."""
    seen: Tensor
    """(languages and English,), whether a mean has begun."""

    def __init__(self, align: Align, layers: int, languages: int, hidden: int) -> None:
        super().__init__()
        self.align = align
        self.weights = align.layer_weights or [1 / layers] * layers
        if align.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(align.temperature)))
        if align.centred == "running":
            self.register_buffer("means", torch.zeros(layers, languages + 1, hidden))
            self.register_buffer("seen", torch.zeros(languages + 1, dtype=torch.bool))

    def forward(self, foreign: Tensor, english: Tensor, languages: Tensor, same: Tensor) -> Tensor:
        """Return the loss of pairs, a scalar.

        Args:
            foreign, english: (pairs, layers, hidden), pooled, at least fp32.
            languages: (pairs,), of the foreign sentences, from 0.
            same: (pairs, pairs), which pairs say the same.
        """
        if self.align.centred == "running":
            foreign, english = self._from_running_means(foreign, english, languages)
        losses = []
        for layer, weight in enumerate(self.weights):
            sides = foreign[:, layer], english[:, layer]
            if self.align.centred is True:
                sides = centre(sides[0]), centre(sides[1])
            losses.append(weight * self._of_layer(*stop_gradient(*sides, self.align.stop_gradient), same))
        return torch.stack(losses).sum()

    def _of_layer(self, foreign: Tensor, english: Tensor, same: Tensor) -> Tensor:
        if self.align.objective == "cosine":
            return cosine_distance(foreign, english)
        if self.align.objective == "squared":
            return squared_distance(foreign, english)
        learns = self.align.learn_temperature
        temperature = self.log_temperature.exp() if learns else self.align.temperature
        return info_nce(foreign, english, temperature=temperature, symmetric=self.align.symmetric, same=same)

    def _from_running_means(
        self, foreign: Tensor, english: Tensor, languages: Tensor
    ) -> tuple[Tensor, Tensor]:
        pivot = len(self.seen) - 1
        of_sentence = torch.cat([languages, torch.full_like(languages, pivot)])
        states = torch.cat([foreign, english])
        means = self.means.clone()
        for language in of_sentence.unique().tolist():
            own = states.detach()[of_sentence == language].mean(0)
            # Begun from the side's mean: a first sentence minus itself would be zero, which has no direction.
            side = english if language == pivot else foreign
            before = means[:, language] if self.seen[language] else side.detach().mean(0)
            means[:, language] = MOMENTUM * before + (1 - MOMENTUM) * own if self.training else before
            if self.training:
                self.seen[language] = True
        if self.training:
            self.means.copy_(means)
        centred = states - means[:, of_sentence].transpose(0, 1)
        return centred[: len(foreign)], centred[len(foreign) :]
