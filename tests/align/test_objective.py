"""The objective against formulas written out here, and against values that are known beforehand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from midalign.align.objective import (
    centre,
    cosine_distance,
    info_nce,
    squared_distance,
    stop_gradient,
    token_deviation,
)
from midalign.align.pooling import mean_pool
from midalign.align.retrieval import pair_accuracy, translation_matrix


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
def test_loss_and_gradients_are_those_of_the_formula(temperature):
    """In fp64 to 1e-6; the gradients by central differences of the formula in numpy."""
    torch.manual_seed(0)
    a = torch.randn(7, 16, dtype=torch.float64, requires_grad=True)
    c = torch.randn(7, 16, dtype=torch.float64, requires_grad=True)

    def formula(symmetric):
        forth, back = (
            by_hand(a.detach(), c.detach(), temperature),
            by_hand(c.detach(), a.detach(), temperature),
        )
        return (forth + back) / 2 if symmetric else forth

    for symmetric in (False, True):
        loss = info_nce(a, c, temperature=temperature, symmetric=symmetric)
        assert loss.item() == pytest.approx(formula(symmetric), abs=1e-6)
        for side in (a, c):
            (gradient,) = torch.autograd.grad(loss, side, retain_graph=True)
            for place in ((0, 0), (3, 5), (6, 15)):
                values = []
                for move in (1e-5, -2e-5):
                    side.data[place] += move
                    values.append(formula(symmetric))
                side.data[place] += 1e-5
                assert gradient[place].item() == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-6)


def test_equal_sentences_are_no_negatives():
    torch.manual_seed(0)
    a, c = torch.randn(4, 8), torch.randn(4, 8)
    same = torch.eye(4, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    cosine = F.normalize(a, dim=1) @ F.normalize(c, dim=1).T / 0.1
    expected = 0.0
    for i in range(4):
        others = [j for j in range(4) if j == i or not same[i, j]]
        expected += (cosine[i, others].logsumexp(0) - cosine[i, i]) / 4
    found = info_nce(a, c, temperature=0.1, symmetric=False, same=same)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_distances():
    torch.manual_seed(0)
    a, c = torch.randn(6, 8), torch.randn(6, 8)
    cosines = [float(x @ y / x.norm() / y.norm()) for x, y in zip(a, c, strict=True)]
    assert cosine_distance(a, c).item() == pytest.approx(1 - sum(cosines) / 6, rel=1e-5)
    moved = sum(float((x - y) @ (x - y)) for x, y in zip(a, c, strict=True))
    norms = sum(float(x @ x + y @ y) for x, y in zip(a, c, strict=True)) / 2
    assert squared_distance(a, c).item() == pytest.approx(moved / norms, rel=1e-5)
    assert squared_distance(a * 100, c * 100).item() == pytest.approx(moved / norms, rel=1e-5)


def test_a_stopped_side_is_a_constant():
    for side, constant in (("foreign", 0), ("english", 1)):
        sides = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
        info_nce(*stop_gradient(*sides, side), temperature=0.1, symmetric=True).backward()
        assert sides[constant].grad is None
        assert sides[1 - constant].grad.abs().sum() > 0


def test_known_values():
    same = torch.ones(32, 8)
    assert info_nce(same, same, temperature=0.1, symmetric=False).item() == pytest.approx(
        math.log(32), rel=1e-6
    )
    # The lowest it can be with cosines in [-1, 1]: own 1, others -1, which B > 2 vectors cannot reach.
    floor = math.log(1 + 31 * math.exp(-2 / 1.5))
    assert floor == pytest.approx(2.216, abs=1e-3)
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


def test_deviation_ignores_moves_of_whole_sentences():
    torch.manual_seed(0)
    owner = torch.tensor([[-1, 0, 0, 0, 1, 1, 1, -2], [-1, 2, 2, 2, 2, 3, 3, 3]])
    reference, kept = torch.randn(2, 8, 5), owner >= 0
    moved = reference.clone()
    for sentence in range(4):
        moved[owner == sentence] += torch.randn(5)
    deviation, variance = token_deviation(moved, reference, owner, kept)
    assert (deviation / variance).item() == pytest.approx(0, abs=1e-10)
    # All tokens of a sentence collapsed into their mean: the whole of the reference's variance is lost.
    for sentence in range(4):
        moved[owner == sentence] = reference[owner == sentence].mean(0)
    deviation, variance = token_deviation(moved, reference, owner, kept)
    assert (deviation / variance).item() == pytest.approx(1, rel=1e-5)


def test_retrieval_against_brute_force():
    torch.manual_seed(0)
    english = torch.randn(30, 6) + 3
    foreign = english + torch.randn(30, 6)
    for centred in (False, True):
        a = (foreign - foreign.mean(0) if centred else foreign).double().numpy()
        b = (english - english.mean(0) if centred else english).double().numpy()
        cosine = np.array([[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a])
        hits = [int(cosine[i].argmax() == i) + int(cosine[:, i].argmax() == i) for i in range(30)]
        assert pair_accuracy(foreign, english, centred=centred) == pytest.approx(sum(hits) / 60)


def test_a_tie_is_not_found():
    same = torch.ones(4, 3)
    assert pair_accuracy(same, same, centred=False) == 0.0


def test_any_of_several_translations_is_a_hit():
    """One English sentence has three translations, and one foreign sentence has two."""
    torch.manual_seed(0)
    texts = [("a", "X"), ("b", "X"), ("c", "X"), ("d", "Y"), ("a", "Y"), ("e", "Z")]
    states = {text: torch.randn(6) for text in "abcdeXYZ"}
    foreign, english = (torch.stack([states[pair[side]] for pair in texts]) for side in (0, 1))
    hits = []
    for pair in texts:
        for side in (0, 1):
            scores = {
                text: torch.cosine_similarity(states[pair[side]], states[text], dim=0)
                for text in ("XYZ" if side == 0 else "abcde")
            }
            nearest = max(scores, key=scores.get)
            hits.append(((pair[0], nearest) if side == 0 else (nearest, pair[1])) in texts)
    assert 0 < sum(hits) < 12
    assert pair_accuracy(foreign, english, translation_matrix(texts), centred=False) == pytest.approx(
        sum(hits) / 12
    )
    assert pair_accuracy(foreign, english, centred=False) < sum(hits) / 12
