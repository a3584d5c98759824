from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from penstock.edge import pages
from penstock.edge.feed import Feed
from penstock.edge.state import StoredPage
from penstock.errors import IdentityError
from penstock.schema.edges import DELTA_CONTEXT, SNAPSHOT_CONTEXT, Delta

if TYPE_CHECKING:
    from tests.support.site import Site

    from penstock.edge.directory import Directory

pytestmark = pytest.mark.anyio


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def accept(feed: Feed, key: bytes, page: StoredPage) -> bool:
    return feed.take(pages.whole(key, page), page.confirmed_at)


def accept_delta(feed: Feed, key: bytes, page: StoredPage) -> bool:
    return feed.take(pages.changed(key, page, feed.directory), page.confirmed_at)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def feed(clock: Clock) -> Feed:
    return Feed(stale_limit=60.0, clock=clock)


async def test_a_signed_page_is_taken_over_and_announced_with_what_it_replaces(site: Site, feed: Feed) -> None:
    seen: list[tuple[Directory, Directory]] = []
    feed.listen(lambda old, new: seen.append((old, new)))
    assert accept(feed, site.public_key, site.snapshot())
    assert accept(feed, site.public_key, site.snapshot())
    assert [(old.version, new.version) for old, new in seen] == [(-1, 1), (1, 2)]


async def test_a_listener_that_fails_keeps_the_news_from_nobody(site: Site, clock: Clock) -> None:
    failed: list[str] = []
    feed = Feed(stale_limit=60.0, clock=clock, on_error=lambda name, exc: failed.append(f"{name}: {exc}"))
    seen: list[int] = []
    feed.listen(lambda old, new: seen.append(old.callers[new.mark]))  # there is none
    feed.listen(lambda _, new: seen.append(new.version))
    assert accept(feed, site.public_key, site.snapshot())
    assert seen == [1]
    assert failed == ["feed listener: ''"]


async def test_the_same_page_again_changes_nothing(site: Site, feed: Feed) -> None:
    page = site.snapshot()
    assert accept(feed, site.public_key, page)
    assert not accept(feed, site.public_key, page)


async def test_a_page_that_was_changed_after_it_was_signed_is_not_believed(site: Site, feed: Feed) -> None:
    page = site.snapshot()
    with pytest.raises(IdentityError, match="not signed"):
        accept(feed, site.public_key, replace(page, body=page.body.replace(b"tnl_01", b"tnl_02")))
    with pytest.raises(IdentityError, match="not signed"):
        accept(feed, site.public_key, replace(page, signature=b""))
    assert feed.version == -1


async def test_a_signature_is_for_a_snapshot_and_nothing_else_that_the_key_may_sign(site: Site, feed: Feed) -> None:
    page = site.snapshot()
    for context in (b"", b"penstock edge feed: page, 1\0"):
        with pytest.raises(IdentityError, match="not signed"):
            accept(feed, site.public_key, replace(page, signature=site.feed_key.sign(context + page.body)))


async def test_a_page_of_another_control_plane_is_not_believed(site: Site, feed: Feed) -> None:
    with pytest.raises(IdentityError, match="not signed"):
        accept(feed, bytes(31) + b"\x01", site.snapshot())


async def test_an_older_page_is_refused_even_though_it_was_signed_once(site: Site, feed: Feed) -> None:
    old, new = site.snapshot(), site.snapshot()
    accept(feed, site.public_key, new)
    with pytest.raises(IdentityError, match="backwards"):
        accept(feed, site.public_key, old)
    assert feed.version == 2


def delta(site: Site, feed: Feed, context: bytes = DELTA_CONTEXT, **changes: Any) -> StoredPage:
    """One that revokes the caller, from what is held."""
    held = feed.directory
    values = {"after": held.version, "after_mark": held.mark, "version": held.version + 1, "mark": "b"}
    body = Delta.model_validate({**values, "gone_callers": list(held.callers), **changes}).model_dump_json().encode()
    return StoredPage(body, site.feed_key.sign(context + body), 0.0)


async def test_a_delta_is_taken_on_the_state_that_it_is_for_and_on_no_other(site: Site, feed: Feed) -> None:
    with pytest.raises(IdentityError, match="another state"):
        accept_delta(feed, site.public_key, delta(site, feed, after_mark="a"))  # nothing is held yet
    accept(feed, site.public_key, site.snapshot(mark="a"))
    seen: list[tuple[int, int]] = []
    feed.listen(lambda old, new: seen.append((len(old.callers), len(new.callers))))
    for wrong in ({"after": 0}, {"after": 2, "version": 3}, {"after_mark": "c"}, {"version": 1}, {"version": 0}):
        with pytest.raises(IdentityError, match="another state"):
            accept_delta(feed, site.public_key, delta(site, feed, **wrong))
    good = delta(site, feed)
    with pytest.raises(IdentityError, match="not signed"):
        accept_delta(feed, site.public_key, replace(good, body=good.body.replace(b"gone_callers", b"gone_collars")))
    with pytest.raises(IdentityError, match="not signed"):
        accept_delta(feed, site.public_key, delta(site, feed, SNAPSHOT_CONTEXT))
    assert (feed.version, seen) == (1, [])
    accept_delta(feed, site.public_key, good)
    assert (feed.version, seen) == (2, [(1, 0)])
    with pytest.raises(IdentityError, match="another state"):
        accept_delta(feed, site.public_key, good)  # replayed
    with pytest.raises(IdentityError, match="backwards"):
        accept(feed, site.public_key, _first(site))
    assert feed.version == 2


def _first(site: Site) -> StoredPage:
    site.version = 0
    return site.snapshot()


async def test_it_is_stale_before_the_first_word_and_when_control_was_silent_for_too_long(
    site: Site, feed: Feed, clock: Clock
) -> None:
    assert feed.is_stale
    accept(feed, site.public_key, replace(site.snapshot(), confirmed_at=clock.now))
    assert not feed.is_stale
    clock.now += 61
    assert feed.is_stale
    feed.confirm(clock.now)
    assert not feed.is_stale


async def test_a_wait_ends_when_the_feed_brings_what_is_waited_for_and_not_before(site: Site, feed: Feed) -> None:
    async with asyncio.timeout(5):
        waiting = asyncio.gather(feed.wait_until(lambda directory: directory.version == 2, 5.0))
        accept(feed, site.public_key, site.snapshot())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        accept(feed, site.public_key, site.snapshot())
        assert await waiting == [True]


async def test_a_wait_in_vain_ends_in_time(feed: Feed) -> None:
    assert not await feed.wait_until(lambda directory: directory.version == 2, 0.01)
