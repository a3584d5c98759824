"""The page of commands is what the table says."""

from __future__ import annotations

from tests.support.pages import Page
from tools import command_page


def test_the_reference_of_commands_is_what_the_table_says() -> None:
    assert Page("cli.md").text == command_page.render(), "run `make reference`"
