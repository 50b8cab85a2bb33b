"""Several networks that answer together."""

import torch
import torch.nn.functional as F
from torch import nn

from trainables import losses
from trainables.models import cnn2d
from trainables.models.ensemble import Ensemble, together

CONFIG = cnn2d.Config((4,), 3, batch_norm=False, global_pool="max", head=(), dropout=0.0, members=3)


def ensemble() -> Ensemble:
    torch.manual_seed(0)
    found = cnn2d.build(CONFIG, (1, 8, 8), 5)
    assert isinstance(found, Ensemble)
    return found


def test_members_differ_and_their_mean_probability_is_the_answer() -> None:
    model, x = ensemble().eval(), torch.rand(6, 1, 8, 8)
    each = torch.stack([member(x).softmax(1) for member in model.members])
    assert len(each) == 3
    assert not torch.allclose(each[0], each[1])
    torch.testing.assert_close(model(x).softmax(1), each.mean(0))


def test_each_member_learns_as_if_it_were_alone() -> None:
    model, x, targets = ensemble(), torch.rand(6, 1, 8, 8), torch.arange(6) % 5
    logits = model(x)
    assert logits.shape == (6, 3, 5)
    loss = losses.make("ce", 0.1)
    value = loss(logits, targets)
    value.backward()
    alone = [loss(member(x), targets) for member in model.members]
    torch.testing.assert_close(value, torch.stack(alone).mean())
    for member, own in zip(model.members, alone, strict=True):
        weights = list(member.parameters())
        for weight, gradient in zip(weights, torch.autograd.grad(own, weights), strict=True):
            assert weight.grad is not None
            torch.testing.assert_close(3 * weight.grad, gradient)


def test_answers_in_training_are_those_of_all_members() -> None:
    logits = torch.randn(6, 3, 5)
    torch.testing.assert_close(F.softmax(together(logits), 1), F.softmax(logits, 2).mean(1))


def test_one_member_is_a_plain_network() -> None:
    plain = cnn2d.build(cnn2d.Config((4,), 3, False, "max", (), 0.0), (1, 8, 8), 5)
    assert isinstance(plain, nn.Sequential)
