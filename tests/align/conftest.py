"""What the tests of the trunk share."""

import pytest
import torch


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of three sentences that begin with BOS, one of them padded on the right."""
    torch.manual_seed(1)
    ids = torch.randint(3, 60, (3, 9))
    ids[:, 0] = 1
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return ids, mask


@pytest.fixture
def inputs(batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`batch` as a model's forward takes it."""
    return {"input_ids": batch[0], "attention_mask": batch[1]}
