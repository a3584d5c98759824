"""What the chart's files say that the models say too."""

from __future__ import annotations

from importlib.metadata import version

import yaml
from tests.docs.pages import ROOT
from tools import chart_schema

CHART = ROOT / "deploy" / "helm" / "mcp-tunnel"


def test_the_charts_schema_is_what_the_models_say() -> None:
    assert chart_schema.FILE.read_text(encoding="utf-8") == chart_schema.render(), "run `make reference`"


def test_the_chart_is_of_this_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == version("penstock")
