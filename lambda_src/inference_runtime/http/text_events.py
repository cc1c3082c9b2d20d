"""Answers a request with text as a model writes it: events of a server (text/event-stream).

An event without a name has `{"text"}`, the next characters. `end` comes last, and says why the text ends. `error` comes
in its place if the model fails (https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

from __future__ import annotations

import json
import logging
import os
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from inference_runtime.environment import json_variable, required
from inference_runtime.errors import LittleTimeError, MalformedMessageError, RejectItem, reason_of
from inference_runtime.http.requests import RefusedError, message_of
from inference_runtime.stages.builtin.byte_tokens import read_tokens
from inference_runtime.stages.builtin.stops import Stops, stops_of
from inference_runtime.stages.deadline import Deadline
from inference_runtime.stages.inputs import InputSpec, check_returned, kept_names
from inference_runtime.stages.item import Item
from inference_runtime.stages.time_limit import TookTooLongError, call_within
from inference_runtime.stages.user_code import load_stage
from inference_runtime.tensors.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from inference_runtime.engine.drivers.search import Hypothesis
    from inference_runtime.engine.engine import LocalEngine
    from inference_runtime.stages.builtin.byte_tokens import ByteTokens

EVENTS = "text/event-stream"

STOP, LENGTH, TIME = "stop", "length", "time"
"""Why a text ends: the model ended it, it has as many tokens as it may have, or the invocation's time is over."""

_FAILED = "Internal Server Error"  # the log says what broke; nobody else is told
_LATE = "the request took longer than the function may take; send less, or give the function more time"

_log = logging.getLogger(__name__)


class TextWriter:
    """Answers requests with events.

    Parameters
    ----------
    engine
        Runs the model.
    preprocess
        The user's: `preprocess(data, item)` returns the inputs of the model.
    inputs
        The inputs that the model expects.
    tokens
        Make text.
    model_version
        The version of the model.
    stop
        Strings before the first of which a text ends.
    keep
        Names of the values that preprocessing returns besides: of these, a request's own strings count.
    """

    def __init__(
        self,
        *,
        engine: LocalEngine,
        preprocess: Callable[[bytes, Item], object],
        inputs: Sequence[InputSpec],
        tokens: ByteTokens,
        model_version: str,
        stop: Sequence[str] = (),
        keep: Sequence[str] = (),
    ) -> None:
        self._engine = engine
        self._preprocess = preprocess
        self._inputs = inputs
        self._tokens = tokens
        self._model_version = model_version
        self._stop = stop
        self._keep = keep

    @classmethod
    def from_environment(cls, engine: LocalEngine) -> TextWriter:
        """Return what the function's environment describes.

        Raises
        ------
        StageError
            If it is configured wrongly.
        """
        return cls(
            engine=engine,
            preprocess=load_stage("PREPROCESS"),
            inputs=[InputSpec.from_json(spec) for spec in json_variable("MODEL_INPUTS", list)],
            tokens=read_tokens(os.path.join(os.environ.get("LAMBDA_TASK_ROOT", ""), required("TOKENIZER_FILE"))),  # noqa: PTH118
            model_version=required("MODEL_VERSION"),
            stop=json_variable("TEXT_STOP", list) if "TEXT_STOP" in os.environ else (),
            keep=kept_names(),
        )

    def begin(self, event: Mapping[str, Any], context: object) -> Iterator[bytes]:
        """Return the events that answer a request. The model has written its first token then.

        Parameters
        ----------
        event
            That of a function URL, or of a Lambda proxy integration.
        context
            Lambda's: the text ends in time to say so.

        Raises
        ------
        RefusedError
            If there is no text to be had, with the status that says whose fault it is.
        """
        deadline = Deadline(context)
        inputs, stop = self._inputs_of(event, deadline)
        self._engine.start_deadline(deadline.left())
        steps = self._engine.stream(inputs)
        try:
            first = next(steps)
        except LittleTimeError:
            raise RefusedError(HTTPStatus.GATEWAY_TIMEOUT, _LATE) from None
        except Exception:
            _log.exception("the model failed")
            raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, _FAILED) from None
        return self._events(first, steps, Stops(stop))

    def _inputs_of(self, event: Mapping[str, Any], deadline: Deadline) -> tuple[dict[str, Tensor], Sequence[str]]:
        """Return the model's inputs for a request, a batch of one, and the strings that end its text."""
        message, _ = message_of(event)
        try:
            item = Item.from_message(message)
            data = item.payload or b""
            arrays, kept = call_within(
                deadline.left(), lambda: check_returned(self._preprocess(data, item), self._inputs, self._keep)
            )
        except (RejectItem, MalformedMessageError) as error:
            raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, reason_of(error)) from None
        except TookTooLongError:
            raise RefusedError(HTTPStatus.GATEWAY_TIMEOUT, _LATE) from None
        except Exception:
            _log.exception("preprocessing failed")
            raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, _FAILED) from None
        return {name: Tensor.of(array[None]) for name, array in arrays.items()}, (*self._stop, *stops_of(kept))

    def _events(self, first: Hypothesis, steps: Iterator[Hypothesis], stops: Stops) -> Iterator[bytes]:
        """Yield the events of a text whose first step is done."""
        began = time.monotonic()
        text, answer, reason = self._tokens.stream(), first, TIME
        written = 0
        try:
            while True:
                if len(answer.tokens) > written:
                    written = len(answer.tokens)
                    if new := stops.add(text.add(answer.tokens[-1])):
                        yield _event({"text": new})
                if stops.reached:
                    reason = STOP
                    break
                if answer.ended:
                    reason = STOP if answer.steps > len(answer.tokens) else LENGTH
                    break
                answer = next(steps)
        except LittleTimeError:
            _log.warning("the invocation's time is nearly over: the text ends after %d tokens", written)
        if rest := stops.add(text.rest()) + stops.rest():
            yield _event({"text": rest})
        _log.info(
            "wrote %d tokens, the others in %.2f s after the first: %s", written, time.monotonic() - began, reason
        )
        yield _event({"finish_reason": reason, "tokens": written, "model_version": self._model_version}, "end")


def failed_event() -> bytes:
    """Return the event that ends a text of which the rest is missing."""
    return _event({"message": _FAILED}, "error")


def _event(data: Mapping[str, object], name: str | None = None) -> bytes:
    """Return an event. JSON has no line breaks, so that it is one line."""
    said = json.dumps(data, ensure_ascii=False)
    return (f"event: {name}\n" if name else "").encode() + f"data: {said}\n\n".encode()
