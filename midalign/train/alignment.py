"""The alignment loss of a recipe, with its learned temperature and running means."""

import math

import torch
from torch import Tensor, nn

from midalign.align.objective import centre, cosine_distance, info_nce, squared_distance, stop_gradient
from midalign.train.recipe import Align

MOMENTUM = 0.9
"""Decay factor of the per-language running mean."""


class AlignmentLoss(nn.Module):
    """Alignment loss of pooled states.

    `log_temperature` is trained, and running means of languages are updated in training mode. In eval mode a
    language without a running mean is centred by the batch mean of its side.
    """

    means: Tensor
    """(layers, languages and English, hidden), fp32."""
    seen: Tensor
    """(languages and English,), whether a language has a running mean."""

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
            foreign: Pooled states (pairs, layers, hidden), at least fp32.
            english: The same for the other sides.
            languages: Indices of the foreign sentences' languages (pairs,), from 0.
            same: Whether two pairs have the same meaning (pairs, pairs).
        """
        if self.align.centred == "running":
            foreign, english = self._subtract_running_means(foreign, english, languages)
        losses = []
        for layer, weight in enumerate(self.weights):
            sides = foreign[:, layer], english[:, layer]
            if self.align.centred is True:
                sides = centre(sides[0]), centre(sides[1])
            losses.append(weight * self._layer_loss(*stop_gradient(*sides, self.align.stop_gradient), same))
        return torch.stack(losses).sum()

    def _layer_loss(self, foreign: Tensor, english: Tensor, same: Tensor) -> Tensor:
        if self.align.objective == "cosine":
            return cosine_distance(foreign, english)
        if self.align.objective == "squared":
            return squared_distance(foreign, english)
        learns = self.align.learn_temperature
        temperature = self.log_temperature.exp() if learns else self.align.temperature
        return info_nce(foreign, english, temperature=temperature, symmetric=self.align.symmetric, same=same)

    def _subtract_running_means(
        self, foreign: Tensor, english: Tensor, languages: Tensor
    ) -> tuple[Tensor, Tensor]:
        pivot = len(self.seen) - 1  # English comes last
        of_sentence = torch.cat([languages, torch.full_like(languages, pivot)])
        states = torch.cat([foreign, english])
        means = self.means.clone()
        for language in of_sentence.unique().tolist():
            batch_mean = states.detach()[of_sentence == language].mean(0)
            # Start from the batch mean of the side: a single sentence minus its own mean is the zero vector,
            # whose cosine is undefined.
            side = english if language == pivot else foreign
            before = means[:, language] if self.seen[language] else side.detach().mean(0)
            means[:, language] = MOMENTUM * before + (1 - MOMENTUM) * batch_mean if self.training else before
            if self.training:
                self.seen[language] = True
        if self.training:
            self.means.copy_(means)
        centred = states - means[:, of_sentence].transpose(0, 1)
        return centred[: len(foreign)], centred[len(foreign) :]
