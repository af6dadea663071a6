"""The output of a network holds class scores only where its data has these classes."""

from __future__ import annotations

import pytest
import torch

from leanconv.budget.scores import divergence, relative_error


def test_only_scores_of_classes_are_compared_by_their_softmax():
    reference, other = torch.randn(8, 4), torch.randn(8, 4)
    assert divergence(reference + 1, reference, 4) == pytest.approx(0, abs=1e-6)
    assert divergence(other, reference, 4) == pytest.approx(
        float(torch.nn.functional.kl_div(other.log_softmax(1), reference.softmax(1), reduction="batchmean"))
    )
    for classes in (0, 1, 10):
        assert divergence(other, reference, classes) == relative_error(other, reference) > 0


def test_one_number_for_each_image_is_no_class():
    reference = torch.randn(8, 1)
    assert divergence(reference + 1, reference, 1) == relative_error(reference + 1, reference) > 0
