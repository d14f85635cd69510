"""Paired comparison: hand-made cases, clusters, circular groups, false alarms by simulation, rank ranges."""

from __future__ import annotations

import numpy as np
import pytest

from boda.evaluate.paired import compare, rank_ranges, scores_of


def answers(scores, pictures=None, failed=(), **rest) -> list[dict]:
    """Records of rows 0, 1, ...; `pictures`: which picture each is on."""
    return [
        {
            "row": str(row),
            "score": None if row in failed else score,
            "failed": row in failed,
            "images": [] if pictures is None else [{"path": f"{pictures[row]}.png"}],
            **{name: values[row] for name, values in rest.items()},
        }
        for row, score in enumerate(scores)
    ]


def test_by_hand():
    # Five questions on which they differ, all in favour of the first: 2 of the 32 ways to flip them are as far out.
    found = compare(answers([1, 1, 1, 1, 1, 0, 1]), answers([0, 0, 0, 0, 0, 0, 1]))
    assert found["difference"] == pytest.approx(5 / 7) and found["n"] == 7
    assert found["p"] == pytest.approx(2 / 32)
    assert found["low"] <= 5 / 7 <= found["high"] and found["high"] <= 1
    # Four for, one against: |sum| >= 3 in 2 * (1 + 5) of 32.
    assert compare(answers([1, 1, 1, 1, 0]), answers([0, 0, 0, 0, 1]))["p"] == pytest.approx(12 / 32)


def test_the_other_way_round_is_the_mirror_image():
    rng = np.random.default_rng(1)
    one, other = (answers(list(rng.integers(0, 2, 40))) for _ in range(2))
    there, back = compare(one, other), compare(other, one)
    assert there["difference"] == -back["difference"] and there["p"] == back["p"]
    assert there["low"] == pytest.approx(-back["high"], abs=0.03)
    assert compare(one, other) == there  # seeded


def test_many_clusters_agree_with_few():
    # 13 clusters are gone through exactly, 14 by chance: one more pair that does not differ changes nothing.
    same = [0.0] * 30
    exact = compare(answers([1] * 10 + [0] * 3 + same), answers([0] * 10 + [1] * 3 + same))["p"]
    drawn = compare(answers([1] * 11 + [0] * 3 + same), answers([0] * 11 + [1] * 3 + same))["p"]
    from math import comb

    assert exact == pytest.approx(2 * sum(comb(13, k) for k in range(4)) / 2**13)
    assert drawn == pytest.approx(2 * sum(comb(14, k) for k in range(4)) / 2**14, abs=0.008)


def test_equal_scores_are_no_difference():
    found = compare(answers([1, 0, 1]), answers([1, 0, 1]))
    assert found == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "n": 3}
    # Different rows right, as many of them: apart in every question, and no better on the whole.
    assert compare(answers([1, 0]), answers([0, 1]))["p"] == 1.0


def test_questions_on_one_picture_stand_together():
    ours, theirs = [1] * 40, [0] * 40
    alone = compare(answers(ours), answers(theirs))
    together = compare(answers(ours, [row // 10 for row in range(40)]), answers(theirs, [row // 10 for row in range(40)]))
    assert alone["p"] < 0.001 and together["p"] == pytest.approx(2 / 16)  # four pictures
    lost = [{**record, "images": [None]} for record in answers(ours)]  # pictures that lie nowhere are not all one
    assert compare(lost, answers(theirs))["p"] < 0.001


def test_rows_that_failed_or_are_missing_on_one_side_are_left_out():
    found = compare(answers([1, 1, 1, 1], failed={0}), answers([0, 0, 0], failed={2}))
    assert found["n"] == 1 and found["difference"] == 1.0
    assert compare(answers([1], failed={0}), answers([0])) == dict.fromkeys(("difference", "low", "high", "p")) | {"n": 0}


def test_a_circular_group_is_right_only_if_every_row_is():
    groups = ["a", "a", "b", "b"]
    assert scores_of(answers([1, 1, 1, 0], group=groups)) == {"group a": (1.0, "group a"), "group b": (0.0, "group b")}
    assert list(scores_of(answers([1, 1, 1, 0], failed={1}, group=groups))) == ["group b"]
    assert compare(answers([1, 1, 1, 0], group=groups), answers([1, 0, 1, 0], group=groups))["n"] == 2


def test_judged_answers_count_with_the_mean_of_their_judgements():
    marks = [{"one": {"score": 8.0, "failed": False}, "two": {"score": None, "failed": True}}, {}]
    assert scores_of(answers([None, None], judgements=marks)) == {"row 0": (8.0, "row 0")}


def test_models_that_are_alike_are_told_apart_in_one_of_twenty():
    rng = np.random.default_rng(0)
    tables = rng.integers(0, 2, (400, 2, 60)).astype(float)
    pictures = [row // 2 for row in range(60)]
    found = [compare(answers(list(a), pictures), answers(list(b), pictures), resamples=400) for a, b in tables]
    false = np.mean([each["p"] <= 0.05 for each in found])
    assert 0.02 < false < 0.075  # 400 draws of 5 %: standard deviation 1.1 %
    outside = np.mean([not each["low"] <= 0 <= each["high"] for each in found])
    assert 0.02 < outside < 0.10  # a percentile bootstrap of 30 clusters is a little narrow


def test_a_real_difference_is_found():
    rng = np.random.default_rng(0)
    found = compare(answers(list(rng.random(300) < 0.8)), answers(list(rng.random(300) < 0.55)))
    assert found["p"] < 0.001 and 0 < found["low"] < found["difference"] < found["high"]


def test_rank_ranges():
    rng = np.random.default_rng(0)
    good, alike, poor = rng.random(200) < 0.9, rng.random(200) < 0.88, rng.random(200) < 0.3
    found = rank_ranges({name: answers(list(map(float, s))) for name, s in (("a", good), ("b", alike), ("c", poor))})
    assert found == {"a": (1, 2), "b": (1, 2), "c": (3, 3)}
    assert rank_ranges({"a": answers([1, 0])}) == {"a": (1, 1)}
    assert rank_ranges({}) == {}
    same = answers([1, 0, 1])
    assert rank_ranges({"a": same, "b": same, "c": same}) == dict.fromkeys("abc", (1, 3))
    assert rank_ranges({"a": same, "b": answers([1, 0, 1], failed={0, 1, 2})}) == {"a": (1, 2), "b": (1, 2)}


def test_the_tests_of_a_table_are_corrected_together():
    # Six differences one way: p = 2/64 = 0.031, certain for one pair and not among three.
    ours, theirs = answers([1] * 6), answers([0] * 6)
    assert rank_ranges({"a": ours, "b": theirs}) == {"a": (1, 1), "b": (2, 2)}
    assert rank_ranges({"a": ours, "b": theirs, "c": theirs}) == dict.fromkeys("abc", (1, 3))


def test_many_models_can_still_be_told_apart():
    models = {f"m{number}": answers([float(row < 10 * (number < 12)) for row in range(40)]) for number in range(24)}
    more = {name: answers([record["score"] for record in some] * 2) for name, some in models.items()}
    found = rank_ranges(more)  # 276 pairs, 144 of them with 20 differences one way
    assert found["m0"] == (1, 12) and found["m23"] == (13, 24)
