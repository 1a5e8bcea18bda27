"""What a device tries a package with: golden inputs whose outputs are known, and probes that both versions answer."""

from __future__ import annotations

from dataclasses import dataclass

from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.package_file import relative_path


@dataclass(frozen=True, slots=True)
class GoldenTensor:
    """A tensor with a known value: ``role`` is "input" or "output", ``path`` a .npy, batch first."""

    role: str
    name: str
    path: str

    @classmethod
    def read(cls, reader: Reader) -> GoldenTensor:
        role = reader.text("role")
        if role not in ("input", "output"):
            raise InvalidDocument(f"A golden tensor's role is 'input' or 'output', not {role[:20]!r}.")
        return cls(role, reader.text("name"), reader.text("path", check=relative_path))

    def to_json(self) -> dict[str, object]:
        return {"role": self.role, "name": self.name, "path": self.path}


@dataclass(frozen=True, slots=True)
class Probe:
    """One raw input of the probe set: ``path`` is a .npy, rows first, as many rows as every other probe."""

    name: str
    path: str

    @classmethod
    def read(cls, reader: Reader) -> Probe:
        return cls(reader.text("name"), reader.text("path", check=relative_path))

    def to_json(self) -> dict[str, object]:
        return {"name": self.name, "path": self.path}


@dataclass(frozen=True, slots=True)
class Golden:
    """Inputs and the outputs they must give: |got - want| <= atol + rtol * |want|, element by element.

    Of a model with states the arrays are the steps of one sequence from its beginning: step first, then what one
    request holds (its only row, where the tensor has a batch axis).
    """

    tensors: tuple[GoldenTensor, ...]
    rtol: float
    atol: float

    @classmethod
    def read(cls, reader: Reader) -> Golden:
        return cls(reader.objects("tensors", GoldenTensor.read), reader.number("rtol"), reader.number("atol"))

    def to_json(self) -> dict[str, object]:
        return {"tensors": [tensor.to_json() for tensor in self.tensors], "rtol": self.rtol, "atol": self.atol}
