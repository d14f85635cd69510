"""Which samples make up a step, which rows they make and who sees whom: properties of plan, pack and attention layout."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boda.data.pack import deal, pack, step_rows, units_of
from boda.data.plan import Plan
from boda.models.attention import Layout

IMAGE_TOKENS = 7


def prepared_lengths(lengths, prefix, groups, num_image_tokens: int = IMAGE_TOKENS, width: int = 1) -> SimpleNamespace:
    """Prepared data as packing sees it; every prefix ends on its one picture."""
    named = {"lengths": lengths, "prefix": prefix, "groups": groups}
    arrays = {name: np.array(values) for name, values in named.items()}
    shared = np.where(arrays["prefix"] > 0, arrays["prefix"] + num_image_tokens - 1, 0)
    return SimpleNamespace(**arrays, shared=shared, num_image_tokens=num_image_tokens, width=width)


@st.composite
def rendered_lengths(draw):
    """Prepared data as packing sees it: lengths, prefixes and groups; members of a group have one prefix."""
    groups = draw(st.lists(st.integers(-1, 4), min_size=1, max_size=30))
    prefix_of = draw(st.lists(st.integers(1, 6), min_size=5, max_size=5))
    prefix = [prefix_of[group] if group >= 0 else 0 for group in groups]
    own = draw(st.lists(st.integers(2, 40), min_size=len(groups), max_size=len(groups)))
    lengths = [length + (head + IMAGE_TOKENS - 1 if head else 0) for length, head in zip(own, prefix)]
    return prepared_lengths(lengths, prefix, groups)


@given(rendered_lengths(), st.integers(10, 120), st.integers(1, 4), st.booleans(), st.booleans(), st.data())
def test_rows_hold_every_sample_once(data, row_length, processes, packing, share, source):
    """... in rows that fit, as many for every process; a sample may come twice in a step and then is there twice."""
    number = len(data.lengths)
    samples = np.array(source.draw(st.lists(st.integers(0, number - 1), min_size=1, max_size=40)))
    hands = step_rows(data, samples, row_length, processes, packing, share)
    assert len(hands) == processes and len({len(hand) for hand in hands}) == 1
    rows = [row for hand in hands for row in hand]
    units = [unit for row in rows for unit in row.units]
    assert Counter(index for unit in units for index in unit.samples) == Counter(samples.tolist())
    for row in rows:
        assert row.length <= row_length or len(row.units) == 1
        assert packing or len(row.units) <= 1
    for unit in units:
        head = unit.prefix + IMAGE_TOKENS - 1 if unit.prefix else 0
        assert unit.length == head + sum(int(data.lengths[index]) - head for index in unit.samples)
        assert unit.length <= row_length or len(unit.samples) == 1
        if len(unit.samples) > 1:
            assert share and packing and unit.prefix == data.prefix[unit.samples[0]]
            assert len({int(data.groups[index]) for index in unit.samples}) == 1 and data.groups[unit.samples[0]] >= 0
    # No two rows of the step would fit into one: a row more than needed is a forward pass more.
    filled = sorted(row.length for row in rows if row.units)
    if packing and len(filled) > 1:
        assert filled[0] + filled[1] > row_length
    costs = [sum(row.length for row in hand) for hand in hands]
    assert max(costs) - min(costs) <= max(row.length for row in rows)
    # The same step gives the same rows, whatever was asked before.
    assert step_rows(data, samples, row_length, processes, packing, share) == hands


def test_sharing_saves_the_picture():
    data = prepared_lengths([40, 30, 50, 20], [3, 3, 3, 0], [0, 0, 0, -1], 9)
    units = units_of(data, np.arange(4), 1000, share=True)
    assert [(unit.samples, unit.length) for unit in units] == [((0, 1, 2), 120 - 2 * 11), ((3,), 20)]
    halves = units_of(data, np.arange(4), 60, share=True)  # the third does not fit beside the others
    assert [unit.samples for unit in halves] == [(0, 1), (2,), (3,)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(2, 40), st.integers(2, 40)), min_size=1, max_size=12),
       st.integers(10, 120), st.integers(1, 3), st.booleans(), st.booleans())  # fmt: skip
def test_both_answers_of_a_pair_stay_in_one_row(pairs, row_length, processes, packing, share):
    """... one behind the other, and pairs of one prompt share it where they may; a pair that is too long has a row of its own."""
    prefix = [0 if prompt == 3 else 2 + prompt for prompt, _, _ in pairs for _ in range(2)]  # words alone: no picture in them
    lengths = [
        length + head for pair, heads in zip(pairs, zip(prefix[::2], prefix[1::2])) for length, head in zip(pair[1:], heads)
    ]
    groups = [-1 if prompt == 3 else prompt for prompt, _, _ in pairs for _ in range(2)]
    data = prepared_lengths(lengths, prefix, groups, 1, width=2)
    places = np.arange(len(lengths))
    hands = step_rows(data, places, row_length, processes, packing, share)
    units = [unit for hand in hands for row in hand for unit in row.units]
    assert sorted(index for unit in units for index in unit.samples) == places.tolist()
    for unit in units:
        assert [b - a for a, b in zip(unit.samples[::2], unit.samples[1::2])] == [1] * (len(unit.samples) // 2)
        assert all(index % 2 == 0 for index in unit.samples[::2])
        assert unit.length == sum(lengths[index] for index in unit.samples) - unit.prefix * (len(unit.samples) - 1)
        assert unit.length <= row_length or len(unit.samples) == 2
        assert unit.prefix == (prefix[unit.samples[0]] if share and packing else 0)


def test_a_process_without_rows_gets_empty_ones():
    data = prepared_lengths([5], [0], [-1], 0)
    hands = deal(pack(units_of(data, np.array([0]), 10, share=True), 10), 3)
    assert [len(hand) for hand in hands] == [1, 1, 1] and sum(row.length for hand in hands for row in hand) == 5


@st.composite
def plans(draw):
    counts = draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    weights = draw(st.lists(st.sampled_from([0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0]), min_size=len(counts), max_size=len(counts)))
    sources = np.repeat(np.arange(len(counts)), counts)
    groups = np.array(draw(st.lists(st.integers(-1, 6), min_size=len(sources), max_size=len(sources))))
    arguments = dict(
        seed=draw(st.integers(0, 9)),
        batch_size=draw(st.integers(1, 12)),
        sources=draw(st.permutations(sources.tolist())),
        weights=weights,
        groups=draw(st.sampled_from([groups, None])),
        shards=draw(st.sampled_from([None, np.arange(len(sources)) // 5, np.arange(len(sources)) // 5 - 1])),
        window=draw(st.integers(1, 9)),
        window_above=draw(st.sampled_from([0, 6, 100])),
    )
    return lambda: Plan(**{**arguments, "sources": np.array(arguments["sources"])})


@given(plans(), st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_plan(make, epochs):
    """An epoch takes every row `weight` times, a picture's rows side by side, whatever was asked of the plan before."""
    plan = make()
    for epoch in epochs:
        steps = [plan.step(epoch, number) for number in range(plan.steps_per_epoch())]
        order = np.concatenate(steps)
        assert len(order) == plan.epoch_size() and len(plan.step(epoch, plan.steps_per_epoch())) == 0
        assert all(len(step) == plan.batch_size for step in steps[:-1]) and 0 < len(steps[-1]) <= plan.batch_size
        assert np.array_equal(order, make().order(epoch))
        counts = np.bincount(order, minlength=len(plan.sources))
        for source, weight in enumerate(plan.weights):
            times = counts[plan.sources == source]
            assert times.sum() == max(1, round(weight * len(times)))  # a source never goes unused
            assert times.min() >= int(weight) and times.max() <= -(-weight // 1)
        if plan.groups is not None:
            keys = [int(plan.groups[index]) for index in order]
            runs = [key for place, key in enumerate(keys) if key >= 0 and (place == 0 or keys[place - 1] != key)]
            assert len(runs) == len(set(runs))


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.integers(0, 9),
    st.integers(1, 40),
    st.integers(1, 16),
    st.integers(1, 3),
)
def test_order_in_windows(sizes, seed, window, batch_size, processes):
    """Every sample once an epoch, each step known without those before it and dealt whole to any number of processes;
    a shard is read in one go, but for what windows move."""
    shards = np.repeat(np.arange(len(sizes)), sizes)
    number = len(shards)

    def make() -> Plan:
        return Plan(seed, batch_size, np.zeros(number, int), [1.0], None, shards, window, window_above=0)

    data = prepared_lengths([5] * number, [0] * number, [-1] * number)
    plan = make()
    for epoch in range(2):
        steps = [plan.step(epoch, step) for step in range(plan.steps_per_epoch())]
        order = np.concatenate(steps)
        assert np.array_equal(np.sort(order), np.arange(number))
        assert all(np.array_equal(make().step(epoch, step), steps[step]) for step in {0, len(steps) // 2, len(steps) - 1})
        for step in steps:
            hands = step_rows(data, step, 20, processes, True, False)
            assert sorted(index for hand in hands for row in hand for unit in row.units for index in unit.samples) == sorted(
                step
            )
        for shard, size in enumerate(sizes):
            assert np.ptp(np.flatnonzero(shards[order] == shard)) < size + 2 * window


def test_large_sets_of_shards_are_read_nearly_straight_on():
    """... in another order each epoch, while the sources around them are mixed in evenly; small sets are drawn from everywhere."""
    shards = np.concatenate([np.repeat(np.arange(20), 500), np.full(1000, -1)])
    sources = (shards < 0).astype(int)

    def spans(plan: Plan, epoch: int) -> list[int]:
        order = plan.order(epoch)
        return [int(np.ptp(np.flatnonzero(shards[order[order < 10_000]] == shard))) for shard in range(20)]

    plan = Plan(0, 64, sources, [1.0, 1.0], None, shards, window=200, window_above=5000)
    assert max(spans(plan, 0) + spans(plan, 3)) < 900
    first, second = plan.order(0), plan.order(1)
    assert (np.abs(np.diff(first)) == 1).mean() < 0.05  # no two that lie side by side, but by chance
    firsts = [[int(shards[index]) for index in order[order < 10_000][::500]] for order in (first, second)]
    assert firsts[0] != firsts[1] and not np.array_equal(first, second)
    assert all(0.06 < (part >= 10_000).mean() < 0.12 for part in np.array_split(first, 5))  # 1 of 11
    assert min(spans(Plan(0, 64, sources, [1.0, 1.0], None, shards, window=200), 0)) > 5000
    tenth = Plan(0, 64, sources, [0.1, 1.0], None, shards, window=200, window_above=5000).order(0)
    assert len(set(shards[tenth].tolist()) - {-1}) == 2  # a part of a source is a part of its shards


def test_groups_in_windows_keep_the_mix():
    """Pictures with many rows stand in a window where chance puts them, not in front."""
    groups = np.concatenate([np.concatenate([np.full(10, number), np.full(5, -1)]) for number in range(1000)])
    order = Plan(0, 128, np.zeros(15_000, int), [1.0], groups, np.arange(15_000) // 1500, window=3000, window_above=0).order(0)
    shares = [(groups[part] < 0).mean() for part in np.array_split(order, 20)]
    assert all(0.25 < share < 0.42 for share in shares), shares


def test_plan_draws_another_part_and_order_each_epoch():
    sources = np.zeros(1000, dtype=int)
    plan = Plan(0, 32, sources, [0.5])
    first, second = plan.order(0), plan.order(1)
    both = len(set(first.tolist()) & set(second.tolist()))
    assert 150 < both < 350  # a quarter of the rows by chance
    assert not np.array_equal(Plan(1, 32, sources, [0.5]).order(0), first)
    seen = Counter(int(index) for epoch in range(40) for index in plan.order(epoch))
    assert len(seen) == 1000 and max(seen.values()) < 34  # 20 on average


def test_plan_shuffles_groups_as_it_shuffles_samples():
    """A picture with many rows stands where any one of its rows may fall, not always in front."""
    groups = np.array([0] * 5 + [-1] * 5)
    firsts = [
        int(np.flatnonzero(groups[Plan(seed, 4, np.zeros(10, int), [1.0], groups).order(0)] == 0)[0]) for seed in range(60)
    ]
    assert min(firsts) == 0 and max(firsts) >= 2


def test_large_groups_do_not_come_first():
    """Every part of an epoch has the same mix of single rows and pictures with many questions."""
    groups = np.concatenate([np.repeat(np.arange(1000), 10), np.full(5000, -1)])
    order = Plan(0, 128, np.zeros(len(groups), int), [1.0], groups).order(0)
    shares = [(groups[part] < 0).mean() for part in np.array_split(order, 5)]
    assert all(0.28 < share < 0.39 for share in shares)  # a third of the rows are single


@st.composite
def segments(draw):
    """Lengths and parents of a row: roots, each with or without children that follow it directly."""
    lengths, parents = [], []
    for children in draw(st.lists(st.integers(0, 3), min_size=1, max_size=4)):
        root = len(parents)
        lengths.append(draw(st.integers(1, 5)))
        parents.append(-1)
        for _ in range(children):
            lengths.append(draw(st.integers(1, 5)))
            parents.append(root)
    return lengths, parents


def visible(lengths, parents, window):
    """(L, L) who sees whom, told by hand: a token sees its own sequence (its prefix, then its segment) up to itself."""
    borders = np.cumsum([0, *lengths])
    mask = torch.zeros(int(borders[-1]), int(borders[-1]), dtype=torch.bool)
    for segment, parent in enumerate(parents):
        before = list(range(borders[parent], borders[parent + 1])) if parent >= 0 else []
        sequence = before + list(range(borders[segment], borders[segment + 1]))
        for place in range(len(before), len(sequence)):
            first = 0 if window is None else max(0, place - window + 1)
            mask[sequence[place], sequence[first : place + 1]] = True
    return mask


@given(segments(), st.sampled_from([None, 1, 2, 4, 100]))
def test_layout(row, window):
    lengths, parents = row
    borders = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32)
    layout = Layout.of(borders, torch.tensor(parents, dtype=torch.int32))
    expected = visible(lengths, parents, window)
    everything = slice(0, sum(lengths))
    assert torch.equal(layout.rule(everything, everything, window), expected)
    # The blocks cover every query once, and their masks say the same.
    given_mask = torch.zeros_like(expected)
    covered = []
    for block in layout.blocks_for(window):
        mask = block.mask
        if mask is None:
            mask = torch.ones(block.end - block.start, block.end - block.context, dtype=torch.bool).tril()
        given_mask[block.start : block.end, block.context : block.end] = mask
        covered += range(block.start, block.end)
    assert covered == list(range(sum(lengths)))
    assert torch.equal(given_mask, expected)


def test_layout_refuses_a_prefix_that_is_elsewhere():
    borders = torch.tensor([0, 2, 4, 6], dtype=torch.int32)
    with pytest.raises(ValueError, match="must follow it directly"):
        Layout.of(borders, torch.tensor([-1, -1, 0], dtype=torch.int32))
