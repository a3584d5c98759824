"""Routes that FastAPI looks at when they are first asked for: 3 ms for each of the seventy, and a start asks for none."""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any, Final

from fastapi.routing import APIRoute
from pydantic.warnings import UnsupportedFieldAttributeWarning
from starlette.routing import compile_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# The document reads routes in a thread, and requests ask for the same ones meanwhile: none may be seen half made.
_making: Final = threading.RLock()


class LateRoute(APIRoute):
    """What finds a route is there at once; its parameters, its body and its answer once something reads them.

    A route that FastAPI would refuse is then found by its first request, or by the API's document, which reads all of them.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], *, methods: Iterable[str] | None = None, **told: Any) -> None:
        self.path = path
        self.endpoint = endpoint
        self.methods = set(methods or {"GET"})
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)
        self._told = told

    def __getattr__(self, name: str) -> Any:
        """Only for what is not there yet."""
        with _making:
            if "_told" in self.__dict__:
                self._make()
        return object.__getattribute__(self, name)

    def _make(self) -> None:
        super().__init__(self.path, self.endpoint, methods=self.methods, **self.__dict__.pop("_told"))
        if self.body_field is not None:
            with warnings.catch_warnings():
                # FastAPI gives a body an alias that pydantic has no use for, and hides what it says of that only above.
                warnings.simplefilter("ignore", UnsupportedFieldAttributeWarning)
                self.body_field.validate(None)  # so that its validator is built here
