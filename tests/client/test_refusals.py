from __future__ import annotations

import traceback

import pytest

from penstock.client.refusals import refusal_of
from penstock.errors import TunnelErrorCode
from penstock.net.upgrade import UpgradeResponse


def answer(status: int, body: bytes = b"", **headers: str) -> UpgradeResponse:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return UpgradeResponse(status=status, headers=lines, rest=b"", body=body)


@pytest.mark.parametrize("code", TunnelErrorCode)
def test_a_hops_refusal_keeps_its_code_and_text_and_says_what_to_do(code: TunnelErrorCode) -> None:
    error = refusal_of(answer(code.status, b"In its own words.\n", penstock_error=code.value))
    assert error.code is code
    assert error.public == f"In its own words. ({code.value})"
    assert error.hint
    assert f"hint: {error.hint}" in "".join(traceback.format_exception(error))  # for whoever imports the client


def test_a_refusal_without_a_text_is_its_code() -> None:
    assert refusal_of(answer(502, penstock_error="proxy_unreachable")).public == "proxy_unreachable"


@pytest.mark.parametrize(
    ("said", "seconds"), [("7", 7), ("", None), ("soon", None), ("-1", None), ("²", None), ("9" * 5000, None)]
)
def test_when_to_try_again_is_a_number_of_seconds_or_nothing(said: str, seconds: int | None) -> None:
    assert refusal_of(answer(429, penstock_error="rate_limited", retry_after=said)).retry_after == seconds


@pytest.mark.parametrize("named", ["", "no_such_code", "TUNNEL_NOT_FOUND", "\xff"])
def test_whatever_else_answers_is_told_by_its_status_and_shown_in_the_detail(named: str) -> None:
    error = refusal_of(answer(418, b"<html>" + b"x" * 5000 + b"\xff", penstock_error=named))
    assert "418" in error.public
    assert error.detail is not None
    assert error.detail.startswith("<html>")
    assert len(error.detail) <= 500
    assert error.hint


def test_a_long_text_is_cut() -> None:
    assert len(refusal_of(answer(404, b"x" * 8192, penstock_error="tunnel_not_found")).public) < 600
