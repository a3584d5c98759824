from __future__ import annotations

from collections import Counter

import pytest

from penstock.agent.edges import Edges
from penstock.config.types import HostPort

A, B, C = HostPort("a", 1), HostPort("b", 1), HostPort("c", 1)


def spread(edges: Edges, links: int, now: float = 0.0) -> list[HostPort]:
    held: Counter[HostPort] = Counter()
    for _ in range(links):
        held[edges.choose(held, now)] += 1
    return sorted(held.elements(), key=str)


def test_four_links_are_spread_over_the_edges() -> None:
    assert spread(Edges([A, B], offset=0.0), 4) == [A, A, B, B]
    assert len(set(spread(Edges([A, B, C], offset=0.9), 4))) == 3
    assert spread(Edges([A], offset=0.5), 4) == [A] * 4


def test_agents_begin_at_different_edges_and_an_edge_named_twice_is_one() -> None:
    assert [Edges([A, B, C, A], offset=offset).choose({}, 0.0) for offset in (0.0, 0.4, 0.99)] == [A, B, C]


def test_an_edge_that_failed_is_left_out_for_a_while_and_tried_when_there_is_no_other() -> None:
    edges = Edges([A, B], offset=0.0)
    edges.avoid(A, 30.0)
    assert spread(edges, 4) == [B] * 4
    assert set(spread(edges, 4, now=30.0)) == {A, B}
    edges.avoid(B, 60.0)
    assert edges.choose({}, 0.0) == A  # the one that failed longest ago
    edges.works(B)
    assert edges.choose({}, 0.0) == B


def test_an_agent_that_is_cut_off_also_goes_where_its_token_says() -> None:
    edges = Edges([A], offset=0.0)
    edges.learn([B, C])
    edges.avoid(B, 30.0)
    assert edges.choose({}, 0.0, is_cut_off=True) == C  # not all that was learned has failed
    edges.avoid(C, 60.0)
    assert edges.choose({}, 0.0) == B  # a link is held: what was learned holds
    assert edges.choose({}, 0.0, is_cut_off=True) == A
    edges.avoid(A, 90.0)
    assert edges.choose({}, 0.0, is_cut_off=True) == B
    assert edges.choose({}, 60.0, is_cut_off=True) == B
    edges.avoid(B, 99.0)
    edges.avoid(C, 99.0)
    edges.give([A, C])
    assert edges.choose({}, 95.0, is_cut_off=True) == A


def test_an_empty_list_teaches_nothing_and_a_known_one_is_no_news() -> None:
    edges = Edges([A, B], offset=0.0)
    assert not edges.learn([])
    assert not edges.learn([B, A])
    assert edges.learn([A, C])
    assert edges.addresses == (A, C)


@pytest.mark.parametrize(
    ("held", "move"),
    [
        ({A: 4}, (A, B)),
        ({A: 3, B: 1}, (A, B)),
        ({A: 2, B: 2}, None),
        ({A: 2, B: 1}, None),
        ({}, None),
        ({C: 1, A: 1, B: 1}, (C, A)),  # no more known
    ],
)
def test_a_link_moves_from_the_fullest_edge_to_the_emptiest(
    held: dict[HostPort, int], move: tuple[HostPort, HostPort] | None
) -> None:
    assert Edges([A, B], offset=0.0).uneven(held, 0.0) == move


def test_nothing_moves_to_an_edge_that_failed_a_moment_ago() -> None:
    edges = Edges([A, B], offset=0.0)
    edges.avoid(B, 30.0)
    assert edges.uneven({A: 4}, 0.0) is None
    assert not edges.others(A, 0.0)
    assert edges.uneven({A: 4}, 31.0) == (A, B)
    assert edges.others(A, 31.0)
