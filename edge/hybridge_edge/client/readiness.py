"""What a client that waits for a model is told meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from hybridge_edge.contract.errors import HybridgeError, Unavailable
from hybridge_edge.contract.protos import open_inference_pb2 as messages

LOOK_AGAIN_S = 0.1
LOOK_S = 2.0
"""How long one look may take."""
Progress = Callable[[str], None]


class Watcher:
    """Tells ``progress`` each new sentence once, and remembers the last one for the error."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.last = ""

    def say(self, sentence: str) -> None:
        if sentence != self.last:
            self.last = sentence
            if self._progress is not None:
                self._progress(sentence)

    def missed(self, model: str, timeout_s: float) -> HybridgeError:
        """What is raised in the end."""
        what = f"Model {model}" if model else "The server"
        return Unavailable(f"{what} is not ready after {timeout_s:g} s: {self.last}", "See hybridge-edge status.")


def not_ready(model: str, index: messages.RepositoryIndexResponse) -> str:
    """Why a model does not answer yet, as the server's index tells."""
    entries = [one for one in index.models if one.name == model]
    reasons = [one.reason for one in entries if one.reason]
    if reasons:
        return f"{model} does not answer: {reasons[-1]}"
    return f"{model} is not active yet" if entries else f"no {model} is on this device yet"
