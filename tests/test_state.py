"""State: batch shape, views, resampling, restarts, nesting, and what a mistake is told."""

from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch
from reverie.world_models import State
from reverie.world_models.state import event, nested
from torch import Tensor


@dataclass(frozen=True)
class Inner(State):
    hidden: Tensor = event(1)


@dataclass(frozen=True)
class Outer(State):
    mean: Tensor = event(1)
    cov: Tensor = event(2)
    steps: Tensor = event(0)
    inner: Inner = nested()


def make(*batch, seed=0):
    """Distinct numbers everywhere, an integer leaf among them; event sizes 3, (3, 3), () and nested 1."""
    generator = torch.Generator().manual_seed(seed)
    return Outer(
        mean=torch.randn(*batch, 3, generator=generator),
        cov=torch.randn(*batch, 3, 3, generator=generator),
        steps=torch.randint(1000, batch, generator=generator),
        inner=Inner(torch.randn(*batch, 1, generator=generator)),
    )


def assert_equal(ours, theirs):
    assert ours.tensors().keys() == theirs.tensors().keys()
    for name, leaf in ours.tensors().items():
        assert leaf.shape == theirs.tensors()[name].shape, name
        assert torch.equal(leaf, theirs.tensors()[name]), name


@pytest.mark.parametrize("batch", [(), (1,), (5, 2)])
def test_batch_shape_is_what_is_left_of_the_events(batch):
    assert make(*batch).batch_shape == torch.Size(batch)
    assert isinstance(make(*batch).batch_shape, torch.Size)


def test_batch_shape_when_the_first_field_is_nested():
    @dataclass(frozen=True)
    class NestedFirst(State):
        inner: Inner = nested()
        mean: Tensor = event(1)

    assert NestedFirst(Inner(torch.zeros(5, 2, 1)), torch.zeros(5, 2, 3)).batch_shape == (5, 2)


def test_tensors_names_nested_leaves():
    assert list(make(5).tensors()) == ["mean", "cov", "steps", "inner.hidden"]


def test_fields_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        make(5).mean = torch.zeros(5, 3)


def test_disagreeing_batch_shapes_are_named():
    with pytest.raises(ValueError, match=r"fields of Outer must share one batch shape, found mean \(5,\), cov \(2,\)"):
        Outer(torch.zeros(5, 3), torch.zeros(2, 3, 3), torch.zeros(5), Inner(torch.zeros(5, 1)))
    with pytest.raises(ValueError, match=r"inner \(2,\)"):
        Outer(torch.zeros(5, 3), torch.zeros(5, 3, 3), torch.zeros(5), Inner(torch.zeros(2, 1)))


def test_too_few_axes_are_named():
    with pytest.raises(ValueError, match=r"Outer.cov needs at least 2 axes \(its event\), found shape \(3,\)"):
        Outer(torch.zeros(3), torch.zeros(3), torch.zeros(()), Inner(torch.zeros(1)))


@pytest.mark.parametrize("batch", [(), (5,), (5, 2)])
def test_expand_adds_a_last_batch_axis_as_a_view(batch):
    state = make(*batch)
    wide = state.expand(1000)
    assert wide.batch_shape == (*batch, 1000)
    for name, leaf in wide.tensors().items():
        source = state.tensors()[name]
        assert leaf.stride(len(batch)) == 0, name
        assert leaf.data_ptr() == source.data_ptr(), name
    assert_equal(wide.index(0), state)
    assert_equal(wide.index(999), state)


def test_index_selects_along_one_batch_axis():
    state = make(5, 2, 7)
    assert_equal(state.index(3), state.map(lambda leaf: leaf[:, :, 3]))
    assert_equal(state.index(-1), state.map(lambda leaf: leaf[:, :, 6]))
    assert_equal(state.index(3, dim=0), state.map(lambda leaf: leaf[3]))
    assert_equal(state.index(slice(1, 4), dim=-1), state.map(lambda leaf: leaf[:, :, 1:4]))
    assert_equal(state.index(torch.tensor([1, 1, 0]), dim=1), state.map(lambda leaf: leaf[:, [1, 1, 0]]))
    assert state.index(0).mean.data_ptr() == state.mean.data_ptr()
    with pytest.raises(IndexError):
        state.index(0, dim=3)
    with pytest.raises(IndexError):
        make().index(0)


def test_gather_resamples_each_row_on_its_own():
    state, idx = make(5, 4), torch.randint(4, (5, 11), generator=torch.Generator().manual_seed(1))
    picked = state.gather(idx)
    assert picked.batch_shape == (5, 11)
    for row in range(5):
        for column in range(11):
            assert_equal(picked.index(row, dim=0).index(column), state.index(row, dim=0).index(int(idx[row, column])))


def test_gather_reads_an_expanded_state():
    state = make(5)
    assert_equal(state.expand(4).gather(torch.zeros(5, 3, dtype=torch.long)), state.expand(3))


def test_gather_refuses_indices_of_another_batch():
    with pytest.raises(ValueError, match=r"indices of shape \(5, 'M'\).*batch shape \(5, 4\), found \(2, 11\)"):
        make(5, 4).gather(torch.zeros(2, 11, dtype=torch.long))


def test_where_chooses_per_batch_entry():
    state, other = make(5, 2), make(5, 2, seed=1)
    mask = torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1], [1, 0]]).bool()
    mixed = state.where(mask, other)
    for row in range(5):
        for column in range(2):
            source = state if mask[row, column] else other
            assert_equal(mixed.index(row, dim=0).index(column), source.index(row, dim=0).index(column))
    assert_equal(make().where(torch.tensor(False), make(seed=1)), make(seed=1))


def test_where_keeps_what_is_not_chosen_out_of_the_gradient():
    mean = torch.ones(2, 3, requires_grad=True)
    broken = Inner(torch.tensor([[float("nan")], [1.0]]))
    state = Inner(mean.sum(-1, keepdim=True)).where(torch.tensor([True, False]), broken)
    state.hidden.sum().backward()
    assert torch.equal(mean.grad, torch.tensor([[1.0] * 3, [0.0] * 3]))


@pytest.mark.parametrize("batch", [(), (1,), (5, 2)])
def test_stack_adds_time_behind_the_batch(batch):
    steps = [make(*batch, seed=t) for t in range(3)]
    stacked = State.stack(steps)
    assert isinstance(stacked, Outer)
    assert stacked.batch_shape == (*batch, 3)
    for t, step in enumerate(steps):
        assert_equal(stacked.index(t), step)


def test_stack_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one state"):
        State.stack([])


def test_map_reaches_nested_leaves():
    doubled = make(5).map(lambda leaf: 2 * leaf)
    assert torch.equal(doubled.inner.hidden, 2 * make(5).inner.hidden)
    assert torch.equal(doubled.steps, 2 * make(5).steps)


def test_detach_cuts_every_leaf():
    state = Inner(torch.ones(2, 1, requires_grad=True) * 3)
    assert state.hidden.requires_grad
    assert not state.detach().hidden.requires_grad
    assert torch.equal(state.detach().hidden, state.hidden)


def test_to_casts_floating_leaves_and_moves_all():
    dtypes = {name: leaf.dtype for name, leaf in make(5).to(torch.float64).tensors().items()}
    assert dtypes.pop("steps") == torch.int64
    assert set(dtypes.values()) == {torch.float64}
    assert {leaf.device.type for leaf in make(5).to("meta").tensors().values()} == {"meta"}


def test_unbind_undoes_stack():
    states = [make(4, seed=seed) for seed in range(3)]
    for ours, theirs in zip(State.stack(states).unbind(), states, strict=True):
        assert_equal(ours, theirs)
    assert [piece.batch_shape for piece in make(2).unbind()] == [torch.Size([])] * 2
