"""What the chart's files say that the models say too."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import yaml
from tests.support.pages import ROOT
from tools import chart_schema

CHARTS = ROOT / "deploy" / "helm"


def test_the_charts_schema_is_what_the_models_say() -> None:
    assert chart_schema.FILE.read_text(encoding="utf-8") == chart_schema.render(), "run `make reference`"


@pytest.mark.parametrize("chart", ["mcp-tunnel", "penstock"])
def test_a_chart_is_of_this_version(chart: str) -> None:
    assert yaml.safe_load((CHARTS / chart / "Chart.yaml").read_text())["appVersion"] == version("penstock")
