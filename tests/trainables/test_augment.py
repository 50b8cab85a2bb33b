"""Augmentation: by hand, against torchvision, and over many draws."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Beta
from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.functional import rotate as rotated_by_torchvision

from trainables.augment import Gain, Mask, Mixup, Rotation, Shift, build, move, rotate
from trainables.config import Augment

STRONG = Augment(rotation=15, time_mask=0.3, frequency_mask=0.2, gain_db=6, shift=0.25, mixup=0.4)
SHAPES = {"pictures": (5, 3, 24, 32), "frames": (5, 20, 8), "samples": (5, 1, 160), "vectors": (5, 12)}
TOUCHES = {  # which inputs a step changes
    Gain(6): {"frames", "samples"},
    Shift(0.25): {"pictures", "frames", "samples"},
    Rotation(15): {"pictures"},
    Mask(0.3, axis=3): {"pictures"},
    Mask(0.3, axis=2): {"pictures"},
}


def inputs(kind: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Positive everywhere, so that zeros are what augmentation has put there."""
    return 0.1 + torch.rand(SHAPES[kind], generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_step_touches_what_it_understands_and_keeps_shape_and_type(kind: str, dtype: torch.dtype) -> None:
    given = inputs(kind, dtype)
    before = given.clone()
    for step, touched in TOUCHES.items():
        found = step(given)
        assert found.shape == given.shape
        assert found.dtype == dtype
        assert found.device == given.device
        assert torch.isfinite(found).all()
        assert torch.equal(found, given) == (kind not in touched), step
        if kind not in touched:
            assert found is given
    assert torch.equal(given, before)


@pytest.mark.parametrize("kind", SHAPES)
def test_nothing_happens_in_evaluation_or_at_zero(kind: str) -> None:
    given = inputs(kind)
    state = torch.random.get_rng_state()
    assert build(STRONG).eval()(given) is given
    assert build(Augment()).train()(given) is given
    assert build(Augment(mixup=0.4)).train()(given) is given
    assert torch.equal(torch.random.get_rng_state(), state), "no random number is drawn in vain"


@pytest.mark.parametrize("kind", ["pictures", "frames", "samples"])
def test_the_seed_decides_and_examples_differ(kind: str) -> None:
    given = inputs(kind)[:1].expand(5, *SHAPES[kind][1:])
    module = build(STRONG)
    torch.manual_seed(7)
    first = module(given)
    assert not torch.equal(module(given), first)
    torch.manual_seed(7)
    assert torch.equal(module(given), first)
    assert len({tuple(example.flatten().tolist()) for example in first}) == 5


def test_only_active_steps_are_built_masks_last() -> None:
    def steps(how: Augment) -> list[type[nn.Module]]:
        module = build(how)
        assert isinstance(module, nn.Sequential)
        return [type(step) for step in module]

    assert steps(Augment()) == []
    assert steps(STRONG) == [Gain, Shift, Rotation, Mask, Mask]
    assert steps(replace(STRONG, shift=0, frequency_mask=0)) == [Gain, Rotation, Mask]
    along_time, along_frequency = build(Augment(time_mask=0.3, frequency_mask=0.2))
    assert (along_time.share, along_time.axis) == (0.3, 3)
    assert (along_frequency.share, along_frequency.axis) == (0.2, 2)


@pytest.mark.parametrize("kind", ["pictures", "frames"])
def test_gradients_flow_and_only_where_inputs_are_left(kind: str) -> None:
    given = inputs(kind).requires_grad_()
    found = build(STRONG)(given)
    found.square().sum().backward()
    assert given.grad is not None
    assert torch.isfinite(given.grad).all()
    assert given.grad.flatten(1).abs().amax(dim=1).min() > 0
    assert (given.grad == 0).any()


# Rotation


@pytest.mark.parametrize("shape", [(4, 1, 21, 21), (4, 3, 16, 31), (4, 3, 40, 12)])
def test_rotation_against_torchvision(shape: tuple[int, ...]) -> None:
    pictures = torch.rand(shape)
    degrees = torch.tensor([-15.0, 0.0, 7.3, 90.0])
    found = rotate(pictures, degrees)
    for picture, angle, turned in zip(pictures, degrees.tolist(), found, strict=True):
        wanted = rotated_by_torchvision(picture, angle, InterpolationMode.BILINEAR)
        torch.testing.assert_close(turned, wanted, rtol=0, atol=2e-5)
    torch.testing.assert_close(found[1], pictures[1], rtol=0, atol=1e-5)


def test_a_quarter_turn_by_hand() -> None:
    picture = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]])
    wanted = torch.tensor([[[[3.0, 6.0, 9.0], [2.0, 5.0, 8.0], [1.0, 4.0, 7.0]]]])
    torch.testing.assert_close(rotate(picture, torch.tensor([90.0])), wanted, rtol=0, atol=1e-5)


def test_angles_are_uniform_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("trainables.augment.rotate", lambda pictures, degrees: drawn.append(degrees) or pictures)
    Rotation(15)(torch.zeros(4_000, 1, 2, 2))
    assert_uniform(drawn[0], -15, 15)


def test_corners_of_a_turned_picture_are_black() -> None:
    found = rotate(torch.ones(2, 3, 65, 65), torch.tensor([15.0, -15.0]))
    assert (found[..., [0, 0, -1, -1], [0, -1, 0, -1]] == 0).all()
    torch.testing.assert_close(found[..., 20:45, 20:45], torch.ones(2, 3, 25, 25))


# Masks


@pytest.mark.parametrize(("axis", "share", "widest"), [(3, 0.29, 29), (2, 0.29, 14), (3, 1.0, 100), (2, 0.01, 0)])
def test_masks_are_one_band_of_zeros_of_every_width_up_to_the_share(axis: int, share: float, widest: int) -> None:
    given = torch.full((3_000, 2, 2, 100) if axis == 3 else (3_000, 2, 50, 2), 0.5)
    found = Mask(share, axis=axis)(given)
    assert set(found.unique().tolist()) <= {0.0, 0.5}
    across = found.transpose(2, axis)  # the masked axis third
    assert torch.equal(across, across[:, :1, :, :1].expand_as(across)), "bands run across channels and the other axis"
    blank = across[:, 0, :, 0] == 0
    widths = blank.sum(dim=1)
    edges = blank.int().diff(dim=1, prepend=torch.zeros(len(blank), 1), append=torch.zeros(len(blank), 1)) != 0
    assert torch.equal(edges.sum(dim=1), 2 * (widths > 0)), "one band"
    assert set(widths.tolist()) == set(range(widest + 1))
    if widest:
        assert_uniform(widths + torch.rand(len(widths)), 0, widest + 1)


def test_masks_lie_anywhere() -> None:
    """A third of a hundred pixels: bands of equal width are equally often at each of their places."""
    blank = Mask(0.03, axis=3)(torch.ones(20_000, 1, 1, 100))[:, 0, 0] == 0
    starts = blank.float().argmax(dim=1)
    for width in (1, 2, 3):
        of_width = starts[blank.sum(dim=1) == width]
        assert set(of_width.tolist()) == set(range(100 - width + 1))
        assert_uniform(of_width + torch.rand(len(of_width)), 0, 100 - width + 1)


# Gain


@pytest.mark.parametrize("shape", [(4_000, 1, 6), (4_000, 3, 2)])
def test_levels_are_uniform_in_decibels_and_one_for_each_example(shape: tuple[int, ...]) -> None:
    given = torch.randn(shape).sign()
    found = Gain(6)(given)
    assert torch.equal(found.sign(), given)
    levels = found.abs().flatten(1)
    assert torch.equal(levels, levels[:, :1].expand_as(levels))
    assert_uniform(20 * levels[:, 0].log10(), -6, 6)
    assert 0.5011 < levels.min() < levels.max() < 1.9954  # 10 ** (6 / 20)


# Shift


def test_moves_by_hand() -> None:
    series = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 5)
    wanted = [[1, 2, 3, 4], [0, 1, 2, 3], [3, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert move(series, torch.tensor([0, 1, -2, 4, -4])).tolist() == wanted


def test_pictures_move_along_their_width_and_frames_by_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = torch.arange(1.0, 13.0).reshape(1, 2, 2, 3).repeat(2, 1, 1, 1)
    frames = torch.arange(1.0, 7.0).reshape(1, 3, 2).repeat(2, 1, 1)
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor([1, -1]))
    later, earlier = Shift(0.5)(pictures)
    assert later.tolist() == [[[0, 1, 2], [0, 4, 5]], [[0, 7, 8], [0, 10, 11]]]
    assert earlier.tolist() == [[[2, 3, 0], [5, 6, 0]], [[8, 9, 0], [11, 12, 0]]]
    later, earlier = Shift(0.5)(frames)
    assert later.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert earlier.tolist() == [[2, 3], [4, 5], [6, 0]]


@pytest.mark.parametrize("shape", [(6_000, 5, 4), (6_000, 1, 20), (6_000, 2, 3, 20)])
def test_amounts_are_uniform_up_to_the_share_either_way(shape: tuple[int, ...]) -> None:
    length = 20
    ramp = torch.arange(1.0, length + 1).reshape(-1, *shape[2:]) if len(shape) == 3 else torch.arange(1.0, length + 1)
    found = Shift(0.25)(ramp.expand(shape))
    rows = found.flatten(1) if len(shape) == 3 else found[:, 1, 2]
    amounts = 10 - rows[:, 9]  # the tenth place holds what stood `amount` earlier
    assert set(amounts.tolist()) == set(range(-5, 6))
    assert_uniform(amounts + torch.rand(len(amounts)) - 0.5, -5.5, 5.5)
    vacated = (rows == 0).sum(dim=1)
    assert torch.equal(vacated, amounts.abs().long())


# Mixup


@pytest.mark.parametrize("kind", SHAPES)
def test_mixup_mixes_each_example_with_the_one_whose_target_it_returns(kind: str) -> None:
    given, targets = inputs(kind, torch.float64), torch.tensor([3, 0, 1, 4, 2])
    pairs = set()
    for _ in range(50):
        mixed, others, share = Mixup(0.4)(given, targets)
        partners = torch.stack([given[targets == other][0] for other in others])
        torch.testing.assert_close(mixed, share * given + (1 - share) * partners, rtol=0, atol=1e-12)
        assert mixed.shape == given.shape
        assert mixed.dtype == given.dtype
        assert sorted(others.tolist()) == [0, 1, 2, 3, 4]
        assert 0 <= share <= 1
        pairs |= set(zip(targets.tolist(), others.tolist(), strict=True))
    assert len(pairs) == 25


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    given, targets = torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)
    shares = torch.tensor([Mixup(alpha)(given, targets)[2] for _ in range(1_000)], dtype=torch.float64)
    mean_error = (Beta(alpha, alpha).variance / 1_000) ** 0.5
    assert abs(shares.mean() - 0.5) < 4 * mean_error
    # The variance of 1000 draws deviates by less than 4.5 % in one standard error for every alpha from 0.2 to 4.
    assert shares.var() == pytest.approx(float(Beta(alpha, alpha).variance), rel=0.18)


@pytest.mark.parametrize("alpha", [1e-4, 1e-2, 100.0])
def test_extreme_shares_are_shares(alpha: float) -> None:
    given, targets = inputs("vectors"), torch.arange(5)
    for _ in range(200):
        mixed, _, share = Mixup(alpha)(given, targets)
        assert 0 <= share <= 1
        assert torch.isfinite(mixed).all()


def test_mixup_rests_in_evaluation_and_at_zero_and_obeys_the_seed() -> None:
    given, targets = inputs("frames"), torch.arange(5)
    for module in (Mixup(0.4).eval(), Mixup(0.0).train()):
        mixed, others, share = module(given, targets)
        assert mixed is given
        assert others is targets
        assert share == 1.0
    torch.manual_seed(3)
    first = Mixup(0.4)(given, targets)
    torch.manual_seed(3)
    again = Mixup(0.4)(given, targets)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[2] == again[2]


@pytest.mark.parametrize("kind", SHAPES)
def test_a_batch_of_one(kind: str) -> None:
    given, targets = inputs(kind)[:1], torch.tensor([2])
    assert build(STRONG)(given).shape == given.shape
    mixed, others, _ = Mixup(0.4)(given, targets)
    torch.testing.assert_close(mixed, given)
    assert torch.equal(others, targets)


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    """Kolmogorov and Smirnov's test: under uniformity it fails in 1 of 1000 seeds, and the seed is fixed."""
    assert low <= values.min()
    assert values.max() <= high
    n = len(values)
    places = (values.double().sort().values - low) / (high - low)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = max((places - steps[:-1]).abs().max(), (places - steps[1:]).abs().max())
    assert distance < 1.95 / n**0.5
