"""The objective against formulas written out here, and against values that are known beforehand."""

import math

import numpy as np
import pytest
import torch

from midalign.align.objective import centre, info_nce, token_preservation
from midalign.align.pooling import mean_pool
from midalign.align.retrieval import accuracy


def by_hand(anchors, candidates, temperature):
    """Reference-method 1.1, one direction, in plain numpy: -log softmax of the own candidate, averaged."""
    a, c = anchors.double().numpy(), candidates.double().numpy()
    losses = []
    for i in range(len(a)):
        scores = [
            a[i] @ c[j] / np.linalg.norm(a[i]) / np.linalg.norm(c[j]) / temperature for j in range(len(c))
        ]
        losses.append(-scores[i] + math.log(sum(math.exp(s) for s in scores)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.1, 1.5])
def test_one_direction_and_both(temperature):
    torch.manual_seed(0)
    a, c = torch.randn(7, 16), torch.randn(7, 16)
    forth, back = by_hand(a, c, temperature), by_hand(c, a, temperature)
    one = info_nce(a, c, temperature=temperature, symmetric=False)
    both = info_nce(a, c, temperature=temperature, symmetric=True)
    assert one.item() == pytest.approx(forth, rel=1e-5)
    assert both.item() == pytest.approx((forth + back) / 2, rel=1e-5)


def test_known_values():
    same = torch.ones(32, 8)
    assert info_nce(same, same, temperature=0.1, symmetric=False).item() == pytest.approx(
        math.log(32), rel=1e-6
    )
    # Orthogonal sentences: own cosine 1, others 0, so log(1 + 31 exp(-1/1.5)).
    apart = torch.eye(32)
    expected = math.log(1 + 31 * math.exp(-1 / 1.5))
    assert info_nce(apart, apart, temperature=1.5, symmetric=True).item() == pytest.approx(expected, rel=1e-6)


def test_autocast_does_not_reach_the_cosines():
    torch.manual_seed(0)
    shared = torch.randn(1, 64) * 10
    a = shared + torch.randn(50, 64) * 0.1
    c = a + torch.randn(50, 64) * 0.01
    exact = info_nce(a, c, temperature=0.01, symmetric=True)
    with torch.autocast("cpu", torch.bfloat16):
        inside = info_nce(a, c, temperature=0.01, symmetric=True)
    assert inside.item() == pytest.approx(exact.item(), rel=1e-6)


def test_centring_removes_what_all_sentences_share():
    torch.manual_seed(0)
    states = torch.randn(6, 8)
    torch.testing.assert_close(centre(states + 100), centre(states), atol=1e-4, rtol=0)


def test_mean_pool_against_a_loop():
    torch.manual_seed(0)
    states, mask = torch.randn(3, 5, 4), torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    pooled = mean_pool(states.bfloat16(), mask)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled[1], states[1, 1:3].bfloat16().float().mean(0))
    assert pooled[2].abs().sum() == 0


def test_preservation_ignores_moves_of_whole_sentences():
    torch.manual_seed(0)
    reference, mask = torch.randn(4, 6, 8), torch.ones(4, 6)
    mask[0, 3:] = 0
    moved = reference + torch.randn(4, 1, 8)
    assert token_preservation(moved, reference, mask).item() == pytest.approx(0, abs=1e-10)
    # All tokens of a sentence collapsed into their mean: the whole of the reference's variance is lost.
    collapsed = mean_pool(reference, mask).unsqueeze(1).expand_as(reference)
    assert token_preservation(collapsed, reference, mask).item() == pytest.approx(1, rel=1e-5)


def test_retrieval_against_brute_force():
    torch.manual_seed(0)
    english = torch.randn(30, 6) + 3
    foreign = english + torch.randn(30, 6)
    for centred in (False, True):
        a = (foreign - foreign.mean(0) if centred else foreign).double().numpy()
        b = (english - english.mean(0) if centred else english).double().numpy()
        cosine = np.array([[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a])
        hits = [int(cosine[i].argmax() == i) + int(cosine[:, i].argmax() == i) for i in range(30)]
        assert accuracy(foreign, english, centred=centred) == pytest.approx(sum(hits) / 60)


def test_a_tie_is_not_found():
    same = torch.ones(4, 3)
    assert accuracy(same, same, centred=False) == 0.0
