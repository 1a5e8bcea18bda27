"""What a package may cost the device it runs on, as it was measured or decided where it was made."""

from __future__ import annotations

from dataclasses import dataclass

from hybridge_edge.contract.document import Reader

MAX_RUN_MS = 600_000


@dataclass(frozen=True, slots=True)
class Budgets:
    """Limits that a device holds the package to; 0 states none.

    Attributes:
        p99_us: of features and model for one row, microseconds; a device whose warm-up takes over
            ``admission.warm_up.BUDGET_FACTOR`` times this refuses the package.
        memory_megabytes: what the loaded package may add to the server's memory.
        run_ms: the longest one run may take before the server stops it; 0 leaves it to the server's setting.
    """

    p99_us: int = 0
    memory_megabytes: int = 0
    run_ms: int = 0

    @classmethod
    def read(cls, reader: Reader) -> Budgets:
        return cls(
            reader.integer("p99_us", 0),
            reader.integer("memory_megabytes", 0),
            reader.integer("run_ms", 0, maximum=MAX_RUN_MS),
        )

    def to_json(self) -> dict[str, object]:
        """Fields that are not zero."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name))}
