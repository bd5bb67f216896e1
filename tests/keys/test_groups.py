# SPDX-License-Identifier: Apache-2.0
"""Subscriber groups: both sides agree, and an excluded device gets nothing."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybcast.errors import BadLength, BadValue, KeyUnavailable
from pybcast.keys.groups import GroupRoot, GroupSize, GroupTree, Member, excluded_positions, mask_of
from pybcast.keys.prf import xcbc_prf128
from pybcast.keys.types import SGK

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "more.json").read_text())["groups"]
TREES: dict[GroupSize, GroupTree] = {
    256: GroupTree(GroupRoot(bytes(range(16))), 256),
    512: GroupTree(GroupRoot(bytes(range(16))), 512),
}


def mask_without(excluded: list[int], size: GroupSize) -> bytes:
    return mask_of([p for p in range(size) if p not in excluded], size)


def reference_leaf(root: bytes, position: int, depth: int) -> bytes:
    """drm-profile 2.3, word for word: the most significant position bit first."""
    for level in range(depth - 1, -1, -1):
        root = xcbc_prf128(root, bytes((position >> level & 1,)))
    return root


def test_numbers_of_drm_profile_8_2() -> None:
    tree = TREES[256]
    assert [tree.leaf(p).reveal().hex() for p in (0, 1, 5, 255)] == [
        "e1d3ec313e57b936de972d778a23a4db",
        "1e8374728652772ab40051c59ab0d4c0",
        "c0a76fe4d89f4242d447f86be7202fb4",
        "1ebd04ff35799e8768ea9ceabc447fe2",
    ]
    assert [sgk.reveal().hex() for sgk in tree.sgks(5)] == [
        "a211c9842b06c40a66d7266699e2815d",
        "50cdc93ee7b024f78d004e9b7a55c27a",
        "6b242ee5c80c0a8ea687b284f04a096c",
        "0ff4c36f23e0b0298b5a500befb4d8ea",
        "f3b69c66b25f3d096a7ba2915e939447",
        "5081c090b9a497369ea3d7ae7cfc57f6",
        "fb51f003c4adc25ae71bf341ad2112c3",
        "6b5bbda8696a166689d47b8ea8191f54",
    ]
    assert tree.iek(mask_without([0, 1, 255], 256)).reveal().hex() == "e1ed9cbc8d7c509b027de058acd70ff9"


@pytest.mark.parametrize("v", VECTORS, ids=lambda v: str(v["size"]))
def test_vectors(v: dict[str, Any]) -> None:
    tree = GroupTree(GroupRoot.from_hex(v["root"]), v["size"])
    assert [sgk.reveal().hex() for sgk in tree.sgks(v["member"])] == v["sgks"]
    assert tree.leaf(v["member"]).reveal().hex() == v["leaf"]
    mask = mask_without(v["excluded"], v["size"])
    assert excluded_positions(mask, v["size"]) == v["excluded"]
    member = Member(v["member"], v["size"], tree.sgks(v["member"]))
    assert tree.iek(mask).reveal().hex() == member.iek(mask).reveal().hex() == v["iek"]


@pytest.mark.parametrize(("size", "depth"), [(256, 8), (512, 9)])
def test_every_member_computes_every_leaf_but_its_own(size: GroupSize, depth: int) -> None:
    tree = TREES[size]
    leaves = [reference_leaf(bytes(range(16)), p, depth) for p in range(size)]
    for position in (0, 1, size // 2 - 1, size // 2, size - 1):
        member = Member(position, size, tree.sgks(position))
        for other in range(0, size, 5):
            assert tree.leaf(other).reveal() == leaves[other]
            if other != position:
                assert member.leaf(other).reveal() == leaves[other]
        with pytest.raises(KeyUnavailable, match="leaf"):
            member.leaf(position)


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from([256, 512]))
def test_members_of_a_subset_agree_and_the_others_are_refused(data: st.DataObject, size: GroupSize) -> None:
    excluded = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=40, unique=True))
    mask = mask_without(excluded, size)
    tree = TREES[size]
    depth = {256: 8, 512: 9}[size]
    leaves = (int.from_bytes(reference_leaf(bytes(range(16)), p, depth), "big") for p in excluded)
    expected = reduce(int.__xor__, leaves).to_bytes(16, "big")
    assert tree.iek(mask).reveal() == expected
    inside = data.draw(st.integers(0, size - 1).filter(lambda p: p not in excluded))
    assert Member(inside, size, tree.sgks(inside)).iek(mask).reveal() == expected
    outside = data.draw(st.sampled_from(excluded))
    with pytest.raises(KeyUnavailable, match="iek"):
        Member(outside, size, tree.sgks(outside)).iek(mask)


@pytest.mark.parametrize("size", [256, 512])
def test_full_empty_and_misfit_masks_are_refused_on_both_sides(size: GroupSize) -> None:
    tree = TREES[size]
    for side in (tree, Member(7, size, tree.sgks(7))):
        for mask in (b"\xff" * (size // 8), bytes(size // 8)):
            with pytest.raises(BadValue, match="bit_access_mask"):
                side.iek(mask)
        for length in (0, size // 8 - 1, size // 8 + 1):
            with pytest.raises(BadLength, match="bit_access_mask"):
                side.iek(b"\xfe" * length)


def test_positions_sizes_and_key_counts_are_checked() -> None:
    tree = TREES[256]
    for position in (-1, 256):
        with pytest.raises(BadValue, match="position_in_group"):
            tree.leaf(position)
        with pytest.raises(BadValue, match="position_in_group"):
            tree.sgks(position)
        with pytest.raises(BadValue, match="position_in_group"):
            Member(position, 256, [SGK(bytes(16))] * 8)
        with pytest.raises(BadValue, match="bit_access_mask"):
            mask_of([position], 256)
    with pytest.raises(BadValue, match="group_size_flag"):
        GroupTree(GroupRoot(bytes(16)), 128)  # type: ignore[arg-type]
    for count in (7, 9):
        with pytest.raises(BadLength, match="sgks"):
            Member(0, 256, [SGK(bytes(16))] * count)


def test_wiped_sides_have_no_keys() -> None:
    tree = GroupTree(GroupRoot(bytes(16)), 256)
    member = Member(3, 256, tree.sgks(3))
    mask = mask_without([9], 256)
    tree.wipe()
    member.wipe()
    with pytest.raises(KeyUnavailable):
        tree.iek(mask)
    with pytest.raises(KeyUnavailable):
        member.iek(mask)


def test_wiping_a_tree_leaves_the_callers_root_alone() -> None:
    root = GroupRoot(bytes(16))
    GroupTree(root, 256).wipe()
    assert not root.wiped
