"""The spatial memory beside a slow twin that keeps Python lists: search, sharing, copy on write, what is refused."""

import random
from itertools import pairwise

import pytest
import torch
from reverie.world_models import gtm_neighbours, spatial_memory
from reverie.world_models.spatial_memory import SpatialMemory

D, V = 2, 3


def entries(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    return torch.randn(*shape, D, **options), torch.randn(*shape, V, **options)


def empty(*batch):
    return SpatialMemory.empty(batch, D, V, torch.zeros((), dtype=torch.float64))


def filled(*batch, n=7, seed=0):
    return empty(*batch).write(*entries(*batch, n, seed=seed))


def content(memory):
    """Of every sequence: a list of (position, value)."""
    positions, values, exists = memory.entries()
    count = memory.batch_shape.numel()
    rank = len(memory.batch_shape)
    rows = zip(*(leaf.reshape(count, *leaf.shape[rank:]) for leaf in (positions, values, exists)), strict=True)
    return [[(p.tolist(), v.tolist()) for p, v, e in zip(*row, strict=True) if e] for row in rows]


def nearest_by_hand(memory, query, k):
    """Sorted distances and values of the k nearest of each query, one after the other."""
    found = []
    for stored, q in zip(content(memory), query.reshape(-1, D).tolist(), strict=True):
        square = sorted((sum((a - b) ** 2 for a, b in zip(p, q, strict=True)), v) for p, v in stored)
        found.append(square[:k])
    return found


def assert_nearest(memory, query, k):
    ours = memory.nearest(query, k)
    assert ours.batch_shape == memory.batch_shape
    width = ours.found.shape[-1]
    flat = (ours.square_distance.reshape(-1, width), ours.value.reshape(-1, width, V), ours.found.reshape(-1, width))
    for squares, values, found, expected in zip(*flat, nearest_by_hand(memory, query, k), strict=True):
        assert int(found.sum()) == len(expected)
        assert bool(found[: len(expected)].all())
        for i, (square, value) in enumerate(expected):
            assert float(squares[i]) == pytest.approx(square, rel=1e-9)
            assert values[i].tolist() == value


# ---- search ----


@pytest.mark.parametrize("batch", [(), (3,), (2, 1)])
@pytest.mark.parametrize("k", [1, 4, 7, 20])
def test_nearest_entries_are_those_of_a_loop(batch, k):
    memory = filled(*batch)
    assert_nearest(memory, entries(*batch, seed=1)[0], k)


def test_sequences_of_different_length_and_restarts():
    memory = empty(3)
    position, value = entries(3, 6)
    memory = memory.write(position, value, mask=torch.tensor([[True] * 6, [False, True] * 3, [False] * 6]))
    assert memory.length.tolist() == [6, 3, 0]
    assert content(memory)[1] == content(filled(3, n=6))[1][1::2]
    assert_nearest(memory, entries(3, seed=1)[0], 4)
    forgot = memory.forget(torch.tensor([True, False, True]))
    assert forgot.length.tolist() == [0, 3, 0]
    assert_nearest(forgot, entries(3, seed=1)[0], 4)
    again = forgot.write(*entries(3, 2, seed=5))
    assert again.length.tolist() == [2, 5, 2]
    assert_nearest(again, entries(3, seed=1)[0], 4)
    assert memory.length.tolist() == [6, 3, 0], "an older memory stays as it was"


def test_all_entries_in_the_order_written():
    memory = filled(2)
    found = memory.nearest(entries(2, seed=1)[0])
    assert torch.equal(found.value, memory.entries()[1])
    assert bool(found.found.all())


@pytest.mark.parametrize("chunk", [1, 40, 10**6])
def test_chunks_change_nothing(monkeypatch, chunk):
    memory, query = filled(2, n=9).expand(11), entries(2, 11, seed=1)[0]
    expected = memory.nearest(query, 3)
    monkeypatch.setattr(gtm_neighbours, "CHUNK", chunk)
    assert torch.equal(memory.nearest(query, 3).value, expected.value)


@pytest.mark.parametrize("extra", [0, 5, 40])
def test_the_tree_finds_what_brute_force_finds(monkeypatch, extra):
    with torch.no_grad():
        memory = filled(2, n=200)
        query = entries(2, 50, seed=1)[0]
        monkeypatch.setattr(spatial_memory, "TREE_SIZE", 100)
        memory.expand(50).nearest(query, 5)
        longer = memory.write(*entries(2, extra, seed=2)) if extra else memory
        ours = longer.expand(50).nearest(query, 5)
        assert longer._buffer.trees, "this was to test the tree"
        monkeypatch.setattr(spatial_memory, "TREE_SIZE", 10**9)
        expected = longer.expand(50).nearest(query, 5)
        torch.testing.assert_close(ours.square_distance, expected.square_distance)
        assert torch.equal(ours.value, expected.value)
        # a memory that knows less than the tree does not see more
        monkeypatch.setattr(spatial_memory, "TREE_SIZE", 100)
        states = SpatialMemory.stack([memory, longer])
        early = states.nearest(query[:, :2], 5).value[:, 0]
        assert torch.equal(early, memory.nearest(query[:, 0], 5).value)


@pytest.fixture
def small_trees(monkeypatch):
    """Trees from 60 entries on, in steps of 16."""
    monkeypatch.setattr(spatial_memory, "TREE_SIZE", 60)
    monkeypatch.setattr(spatial_memory, "NEWEST", 16)


def by_brute_force(monkeypatch, memory, query, k, embed=None):
    with monkeypatch.context() as patch:
        patch.setattr(spatial_memory, "TREE_SIZE", 10**9)
        return memory.nearest(query, k, embed=embed)


class Turned(torch.nn.Module):
    """(s1, s2) to three numbers."""

    def __init__(self):
        super().__init__()
        self.map = torch.nn.Linear(D, 3, bias=False, dtype=torch.float64)

    def forward(self, position):
        return torch.cat([self.map(position)[..., :2], position[..., :1].cos()], -1)


@pytest.mark.parametrize("embed", [None, Turned(), lambda s: s.sin()], ids=["plain", "module", "function"])
def test_trees_grow_with_the_memory(monkeypatch, small_trees, embed):
    query, memory = entries(2, 9, seed=1)[0], empty(2)
    with torch.no_grad():
        for step in range(24):
            memory = memory.write(*entries(2, 17, seed=step))
            if step == 15:  # one sequence starts afresh, in the middle of what trees cover
                memory = memory.forget(torch.tensor([True, False]))
            ours = memory.expand(9).nearest(query, 6, embed=embed)
            expected = by_brute_force(monkeypatch, memory.expand(9), query, 6, embed)
            assert torch.equal(ours.found, expected.found)
            assert torch.equal(ours.value[ours.found], expected.value[expected.found])
        trees = memory._buffer.trees
    assert bool(trees) == (embed is None or isinstance(embed, torch.nn.Module)), "a function may change unseen"
    for tree in trees.values():
        ends = [(begin, end) for begin, end, _ in tree.runs]
        assert ends[0][0] == 0 and all(a[1] == b[0] for a, b in pairwise(ends))
        assert ends[-1][1] > 24 * 17 - 16 and len(ends) <= 6


def test_steps_of_a_sequence_see_no_more_than_was_there(monkeypatch, small_trees):
    memory, states = empty(2), []
    with torch.no_grad():
        for step in range(12):
            memory = memory.write(*entries(2, 17, seed=step))
            states.append(memory)
        stacked, query = SpatialMemory.stack(states), entries(2, 12, seed=1)[0]
        memory.nearest(query[:, 0], 3)
        ours, expected = stacked.nearest(query, 3), by_brute_force(monkeypatch, stacked, query, 3)
    assert torch.equal(ours.value, expected.value)
    for t in (0, 5):
        assert torch.equal(ours.value[:, t], states[t].nearest(query[:, t], 3).value)


def chosen_rows(found):
    """Index, gather and the rest: name -> (a memory made of `found` (2, T), those memories that it consists of)."""
    last, rows = found.batch_shape[1] - 1, torch.tensor([1, 0, 1])
    steps = torch.tensor([[last, 0], [2, last]])
    wide = found.index(-1).expand(3)
    return {
        "int": (found.index(-1), [(0, last), (1, last)]),
        "slice": (found.index(slice(last - 1, None)), [(n, t) for n in (0, 1) for t in (last - 1, last)]),
        "tensor": (found.index(torch.tensor([last, last - 1])), [(n, t) for n in (0, 1) for t in (last, last - 1)]),
        "row": (found.index(1, dim=0).index(-1), [(1, last)]),
        "rows": (found.index(rows, dim=0).index(-1), [(n, last) for n in rows.tolist()]),
        "rows of rows": (found.index(rows, dim=0).index(slice(0, 2), dim=0).index(-1), [(1, last), (0, last)]),
        "gathered steps": (found.gather(steps), [(0, last), (0, 0), (1, 2), (1, last)]),
        "gathered rows": (found.index(-1).gather(rows), [(n, last) for n in rows.tolist()]),
        "detached": (found.index(-1).detach(), [(0, last), (1, last)]),
        "moved": (found.index(-1).to("cpu"), [(0, last), (1, last)]),
        "mapped": (found.map(lambda leaf: leaf[:, -1]), [(0, last), (1, last)]),
        "unbound": (found.unbind()[-1], [(0, last), (1, last)]),
        "candidate": (wide.index(1), [(0, last), (1, last)]),
        "row of candidates": (wide.index(slice(1, 2), dim=0), [(1, last)] * 3),
        "forgetful": (found.index(-1).forget(torch.tensor([True, False])).index(1, dim=0), [(1, last)]),
    }


CHOSEN = chosen_rows(filled(2, n=4).expand(4))


@pytest.mark.parametrize("name", CHOSEN)
def test_what_is_chosen_of_a_memory_keeps_its_trees(monkeypatch, small_trees, name):
    memory, states = empty(2), []
    with torch.no_grad():
        for step in range(12):
            memory = memory.write(*entries(2, 17, seed=step))
            states.append(memory)
        memory.nearest(entries(2, seed=1)[0], 3)
        part, sources = chosen_rows(SpatialMemory.stack(states))[name]
        trees, searched = memory._buffer.trees, []
        assert part._buffer.trees is trees
        runs = {row: list(found.runs) for row, found in trees.items()}
        query = entries(*part.batch_shape, seed=5)[0]
        expected = by_brute_force(monkeypatch, part, query, 3)
        brute_force = gtm_neighbours.brute_force
        monkeypatch.setattr(
            gtm_neighbours, "brute_force", lambda q, keys, *rest: searched.append(keys.shape[-2]) or brute_force(
                q, keys, *rest)
        )  # fmt: skip
        found = part.nearest(query, 3)
    assert torch.equal(found.value, expected.value) and torch.equal(found.found, expected.found)
    if len({t for _, t in sources}) == 1:  # others see different parts of a run
        assert sum(searched) <= 16 * len(sources), "the newest alone are searched one by one"
    assert {row: kept.runs for row, kept in trees.items()} == runs, "no tree was built again"
    for row, (n, t) in zip(content(part), sources, strict=True):
        assert row == content(states[t])[n]


def test_what_is_chosen_of_a_memory_still_copies_before_it_writes():
    with torch.no_grad():
        memory = filled(2)
        before = content(memory)
        for part in (memory.index(slice(None), dim=0), memory.detach(), memory.expand(3).index(0), memory.to("cpu")):
            assert content(part.write(*entries(2, 1, seed=3)))[1][:7] == before[1]
            assert content(memory) == content(part) == before
        assert content(memory.write(*entries(2, 1, seed=4)))[0][:7] == before[0]


def test_changed_entries_have_no_old_trees(small_trees):
    memory = filled(2, n=80)
    for changed in (memory.map(lambda leaf: leaf * 2), memory.to(torch.float32), memory.index(slice(0, 0), dim=0)):
        assert changed._buffer is None or changed.batch_shape[0] == 0
    position, value = (leaf.requires_grad_() for leaf in entries(2, 5))
    learned = empty(2).write(position, value)
    both = SpatialMemory.stack([learned.detach(), learned])
    assert both.position.requires_grad, "what is detached does not stand for what is not"


def test_trees_follow_an_embedding_that_learns(monkeypatch, small_trees):
    embed, query = Turned(), entries(2, 9, seed=1)[0]
    with torch.no_grad():
        memory = filled(2, n=200).expand(9)
        before = memory.nearest(query, 4, embed=embed)
        embed.map.weight.add_(torch.randn(3, D, generator=torch.Generator().manual_seed(0)))
        after = memory.nearest(query, 4, embed=embed)
        assert torch.equal(after.value, by_brute_force(monkeypatch, memory, query, 4, embed).value)
    assert not torch.equal(before.value, after.value)


def test_distances_in_an_embedding():
    memory, query = filled(4), entries(4, seed=1)[0]
    ours = memory.nearest(query, 3, embed=lambda s: torch.cat([s.cos(), s.sin()], -1))
    twin = SpatialMemory.empty((4,), 2 * D, V, query)
    position, value, _ = memory.entries()
    twin = twin.write(torch.cat([position.cos(), position.sin()], -1), value)
    expected = twin.nearest(torch.cat([query.cos(), query.sin()], -1), 3)
    torch.testing.assert_close(ours.square_distance, expected.square_distance)
    assert torch.equal(ours.value, expected.value)
    assert ours.position.shape[-1] == D


def test_weights_are_inverse_square_distances():
    memory, query = filled(3), entries(3, seed=1)[0]
    found = memory.nearest(query, 4)
    raw = 1 / (found.square_distance + 1e-4)
    torch.testing.assert_close(found.log_weights(1e-4).exp(), raw / raw.sum(-1, keepdim=True))
    close = memory.nearest(memory.entries()[0][:, 2], 4)
    assert float(close.log_weights(1e-4).exp()[:, 0].min()) > 0.99


def test_distances_and_values_have_gradients():
    position, value = (leaf.requires_grad_() for leaf in entries(2, 5))
    query = entries(2, seed=1)[0].requires_grad_()

    def read(position, value, query):
        found = empty(2).write(position, value).nearest(query, 3)
        return (found.log_weights(0.1).exp().unsqueeze(-1) * found.value).sum(-2)

    torch.autograd.gradcheck(read, (position, value, query))


# ---- nothing in memory, less than asked for ----


def test_an_empty_memory_finds_nothing_and_is_finite():
    query = entries(3, seed=1)[0].requires_grad_()
    for memory in (empty(3), filled(3).forget(torch.ones(3, dtype=torch.bool))):
        for k in (1, 5, None):
            found = memory.nearest(query, k)
            assert not bool(found.found.any())
            assert bool(torch.isfinite(found.log_weights(1e-4)).all())
            assert bool(torch.isfinite(found.value).all())
            (gradient,) = torch.autograd.grad(found.log_weights(1e-4).sum(), query, allow_unused=True)
            assert gradient is None or bool(torch.isfinite(gradient).all())


def test_missing_entries_have_no_weight():
    found = filled(2, n=3).write(*entries(2, 1), mask=torch.tensor([[True], [False]])).nearest(entries(2)[0], 10)
    weights = found.log_weights(1e-4).exp()
    assert found.found.sum(-1).tolist() == [4, 3]
    assert float(weights[~found.found].sum()) == 0.0
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, dtype=torch.float64))


# ---- sharing ----


def test_expanding_to_a_thousand_candidates_copies_nothing():
    memory = filled(2, n=50)
    wide = memory.expand(1000)
    for name in ("position", "value"):
        ours, theirs = getattr(wide, name), getattr(memory, name)
        assert ours.stride(1) == 0 and ours.untyped_storage().data_ptr() == theirs.untyped_storage().data_ptr()
    query = entries(2, 1000, seed=1)[0]
    found = wide.nearest(query, 4)
    for n in (0, 999):
        assert torch.equal(found.value[:, n], memory.nearest(query[:, n], 4).value)


def test_what_is_expanded_copies_before_it_writes():
    with torch.no_grad():
        memory = filled(2)
        before = content(memory)
        wide = memory.expand(3)
        written = wide.write(*entries(2, 3, 1, seed=4))
        assert content(memory) == before
        assert content(wide) == [row for row in before for _ in range(3)]
        assert [len(row) for row in content(written)] == [8] * 6
        assert content(written)[1][:7] == before[0]


def test_appending_is_in_place_for_the_newest_only():
    with torch.no_grad():
        memory = filled(2)
        first = memory.write(*entries(2, 1, seed=1))
        assert first.position.data_ptr() == memory.position.data_ptr()
        rival = memory.write(*entries(2, 1, seed=2))
        assert rival.position.data_ptr() != memory.position.data_ptr()
        assert content(first)[0][-1] != content(rival)[0][-1]
        assert content(first)[0][:-1] == content(rival)[0][:-1] == content(memory)[0]


@pytest.mark.parametrize("gradients", [False, True])
def test_any_history_equals_that_of_lists(gradients):
    """Random writes, restarts, choices and stacks from random earlier memories."""
    dice = random.Random(0)
    with torch.set_grad_enabled(gradients):
        history = [(empty(2), [[], []])]
        for step in range(70):
            memory, lists = dice.choice(history[-6:])
            rows = [dice.random() < 0.5 for _ in range(2)]
            action = dice.choice(["write", "write", "write", "forget", "where"])
            if action == "write":
                count = dice.randint(1, 9)
                position, value = entries(2, count, seed=step)
                mask = torch.tensor([[dice.random() < 0.7 for _ in range(count)] for _ in range(2)])
                memory = memory.write(position, value, mask=mask)
                lists = [
                    old + [(position[n, i].tolist(), value[n, i].tolist()) for i in range(count) if mask[n, i]]
                    for n, old in enumerate(lists)
                ]
            elif action == "forget":
                memory = memory.forget(torch.tensor(rows))
                lists = [[] if row else old for row, old in zip(rows, lists, strict=True)]
            else:
                other, others = dice.choice(history[-6:])
                memory = memory.where(torch.tensor(rows), other)
                lists = [a if row else b for row, a, b in zip(rows, lists, others, strict=True)]
            history.append((memory, lists))
            for item, expected in history[-6:]:
                assert content(item) == expected
            chosen = [dice.choice(history) for _ in range(3)]
            stacked = type(memory).stack([item for item, _ in chosen])
            assert content(stacked) == [lists[n] for n in range(2) for _, lists in chosen]


def test_the_states_of_a_sequence_share_one_buffer():
    with torch.no_grad():
        memory, states = empty(2), []
        for t in range(40):
            memory = memory.write(*entries(2, 1, seed=t))
            states.append(memory)
        stacked = type(memory).stack(states)
        assert stacked.position.stride(1) == 0
        assert stacked.length[0].tolist() == list(range(1, 41))
        assert content(stacked.index(3)) == content(states[3])
        query = entries(2, seed=9)[0]
        found = stacked.nearest(query.unsqueeze(1).expand(2, 40, D), 3)
        for t in (0, 1, 30):
            alone = states[t].nearest(query, 3)
            width = alone.found.sum(-1)[0]
            assert torch.equal(found.value[:, t, :width], alone.value[:, :width])


def test_resampling_and_choosing_rows():
    memory = filled(2, 3)
    picked = memory.gather(torch.tensor([[2, 2], [0, 1]]))
    rows = content(memory)
    assert content(picked) == [rows[2], rows[2], rows[3], rows[4]]
    assert content(memory.index(1, dim=0)) == rows[3:]
    assert memory.to(torch.float32).stop.dtype == torch.int64


def test_equal_memories_have_equal_tensors_whatever_their_buffers():
    with torch.no_grad():
        slow = empty(2)
        for t in range(7):
            slow = slow.write(*(leaf[:, t : t + 1] for leaf in entries(2, 7)))
    for name, leaf in filled(2).tensors().items():
        assert torch.equal(leaf, slow.tensors()[name]), name


# ---- mistakes ----


def test_mistakes_say_what_was_found():
    memory = filled(2)
    position, value = entries(2, 1)
    with pytest.raises(ValueError, match=r"needs a position of shape \(2, 1, 2\).*found \(2, 1, 3\)"):
        memory.write(value, value)
    with pytest.raises(ValueError, match=r"needs a value of shape \(2, 1, 3\).*found \(2, 1, 2\)"):
        memory.write(position, position)
    with pytest.raises(ValueError, match=r"needs a position of shape .* found \(3, 1, 2\)"):
        memory.write(*entries(3, 1))
    with pytest.raises(ValueError, match="needs a position of shape"):
        memory.write(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"bool mask of shape \(2, 1\), found torch.float32 \(2, 1\)"):
        memory.write(position, value, mask=torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"query of shape \(2, 2\), found \(2, 3\)"):
        memory.nearest(torch.zeros(2, 3), 1)
    with pytest.raises(ValueError, match="k of at least 1, found 0"):
        memory.nearest(position[:, 0], 0)
