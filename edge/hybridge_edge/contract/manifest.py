"""The manifest of a package: what the device verifies, loads and answers for. Format 1.

A package is a folder::

    manifest.json          this document, in canonical form; its sha256 is the package's digest
    signature.json         a DSSE envelope over manifest.json (github.com/secure-systems-lab/dsse)
    features.onnx          raw input -> features
    model.onnx             features -> outputs, post-processing included
    golden/*.npy           inputs and the outputs they must give

Everything but the signature is listed in ``files`` with its size and sha256; nothing else may lie in the folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hybridge_edge.contract import names
from hybridge_edge.contract.budgets import Budgets
from hybridge_edge.contract.codec import Codec
from hybridge_edge.contract.document import Reader, canonical, parse, sha256
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.examination import Golden, Probe
from hybridge_edge.contract.expectations import Comparison, Guard
from hybridge_edge.contract.lineage import Lineage
from hybridge_edge.contract.package_file import MAX_PACKAGE_BYTES, FileEntry, relative_path
from hybridge_edge.contract.state import State, check_states
from hybridge_edge.contract.tensors import BYTES, TensorSpec

FORMAT = 1
SIGNATURE_PAYLOAD_TYPE = "application/vnd.hybridge.manifest+json"
MAX_FILES = 256
MAX_MANIFEST_BYTES = 1024 * 1024
MAX_BATCH_LIMIT = 1024
CONTROL_FLOW = ("If", "Loop", "Scan")
"""Operators that a graph may hold only where the manifest says so."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the model: which graphs, on which execution providers, at which precision.

    Attributes:
        providers: ONNX Runtime execution providers in order of preference, such as ("CPUExecutionProvider",).
        memory_megabytes: what it needs at run time as measured, 0 where it was not measured.
    """

    name: str
    features: str
    model: str
    providers: tuple[str, ...]
    precision: str = "fp32"
    memory_megabytes: int = 0

    @classmethod
    def read(cls, reader: Reader) -> Variant:
        return cls(
            reader.text("name", check=names.model_name),
            reader.text("features", check=relative_path),
            reader.text("model", check=relative_path),
            reader.strings("providers"),
            reader.text("precision"),
            reader.integer("memory_megabytes", 0),
        )

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "features": self.features,
            "model": self.model,
            "providers": list(self.providers),
            "precision": self.precision,
            "memory_megabytes": self.memory_megabytes,
        }


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a package is, format 1.

    Attributes:
        inputs, features, outputs: signatures of raw input, of what lies between the graphs, and of the answer.
        labels: names of the classes, in the order of the last axis of the first output; () where there are none.
        features_digest: sha256 of features.onnx: which samples may be trained on together.
        max_batch: the most rows one run of the graphs may hold.
        confidence_output: the output whose largest value per row is the model's confidence; "" where there is none.
        returns: what may leave the device: "features" alone unless the project says otherwise.
        metrics: the task's metrics on held-out data, by name.
        guards: bounds of outputs. comparisons: with which packages this one was compared, and how often they disagreed.
        probes: raw inputs by name, .npy files, rows first: a device answers them with this package and the one before.
        states: what is kept between requests of one sequence; () where nothing is.
        budgets: what it may cost. control_flow: which of CONTROL_FLOW its graphs use; a device refuses any other.
        codecs: how inputs of BYTES are decoded before the features graph, at most one an input.

    Fields that hold nothing are not written, so a manifest without them has the bytes it always had.
    """

    name: str
    version: str
    files: tuple[FileEntry, ...]
    inputs: tuple[TensorSpec, ...]
    features: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: tuple[Variant, ...]
    golden: Golden
    features_digest: str
    lineage: Lineage
    labels: tuple[str, ...] = ()
    max_batch: int = 32
    confidence_output: str = ""
    returns: tuple[str, ...] = ("features",)
    metrics: dict[str, float] = field(default_factory=dict)
    guards: tuple[Guard, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    probes: tuple[Probe, ...] = ()
    budgets: Budgets = field(default_factory=Budgets)
    control_flow: tuple[str, ...] = ()
    states: tuple[State, ...] = ()
    codecs: tuple[Codec, ...] = ()

    def __post_init__(self) -> None:
        listed = {entry.path for entry in self.files}
        used = {variant.features for variant in self.variants} | {variant.model for variant in self.variants}
        used |= {tensor.path for tensor in self.golden.tensors} | {probe.path for probe in self.probes}
        for codec in self.codecs:
            used |= {codec.golden.encoded, codec.golden.decoded} if codec.golden is not None else set()
        if len(listed) != len(self.files) or len(listed) > MAX_FILES:
            raise InvalidDocument(f"The manifest of {self.name!r} lists a file twice, or more than {MAX_FILES}.")
        if sum(entry.size for entry in self.files) > MAX_PACKAGE_BYTES:
            raise InvalidDocument(f"The package {self.name!r} is larger than {MAX_PACKAGE_BYTES} bytes.")
        if not used <= listed:
            raise InvalidDocument(
                f"The manifest of {self.name!r} uses files it does not list: {sorted(used - listed)}."
            )
        if not 1 <= len(self.variants) <= 4:
            raise InvalidDocument(
                f"The package {self.name!r} has {len(self.variants)} variants; one to four are allowed."
            )
        if not (self.inputs and self.features and self.outputs):
            raise InvalidDocument(f"The manifest of {self.name!r} lacks a signature of inputs, features or outputs.")
        if self.confidence_output and self.confidence_output not in {spec.name for spec in self.outputs}:
            raise InvalidDocument(f"The confidence output {self.confidence_output!r} is not an output.")
        outputs = {spec.name for spec in self.outputs}
        if not {guard.output for guard in self.guards} <= outputs:
            raise InvalidDocument(f"The manifest of {self.name!r} guards something that is not an output.")
        numberless = {spec.name for spec in self.outputs if spec.datatype == BYTES}
        if numberless & {self.confidence_output, *(guard.output for guard in self.guards)}:
            raise InvalidDocument(f"The manifest of {self.name!r} guards BYTES, or takes them for a confidence.")
        if self.probes and {probe.name for probe in self.probes} != {spec.name for spec in self.inputs}:
            raise InvalidDocument(f"The probes of {self.name!r} are not its inputs.")
        if not set(self.control_flow) <= set(CONTROL_FLOW):
            raise InvalidDocument(
                f"The manifest of {self.name!r} declares control flow that is none of {CONTROL_FLOW}."
            )
        check_states(self.name, self.states, self.graph_inputs, self.features, self.outputs, self.max_batch)
        self._check_codecs()

    def _check_codecs(self) -> None:
        inputs = {spec.name: spec for spec in self.inputs}
        for codec in self.codecs:
            if codec.golden is None or codec.input not in inputs or not codec.fits(inputs[codec.input]):
                raise InvalidDocument(
                    f"The codec of input {codec.input[:80]!r} has no golden encodings, or its input is not BYTES of "
                    "[-1, 1]."
                )
        if len({codec.input for codec in self.codecs}) != len(self.codecs):
            raise InvalidDocument(f"The manifest of {self.name!r} has two codecs for one input.")

    @property
    def graph_inputs(self) -> tuple[TensorSpec, ...]:
        """What the features graph gets: the inputs, and where one has a codec, what it decodes to."""
        decoded = {codec.input: codec.decoded for codec in self.codecs}
        return tuple(decoded.get(spec.name, spec) for spec in self.inputs)

    def to_bytes(self) -> bytes:
        """The canonical bytes of manifest.json."""
        fields: dict[str, object] = {}
        if self.guards:
            fields["guards"] = [guard.to_json() for guard in self.guards]
        if self.comparisons:
            fields["comparisons"] = [comparison.to_json() for comparison in self.comparisons]
        if self.probes:
            fields["probes"] = [probe.to_json() for probe in self.probes]
        if self.budgets != Budgets():
            fields["budgets"] = self.budgets.to_json()
        if self.control_flow:
            fields["control_flow"] = list(self.control_flow)
        if self.states:
            fields["states"] = [state.to_json() for state in self.states]
        if self.codecs:
            fields["codecs"] = [codec.to_json() for codec in self.codecs]
        return canonical(
            {
                **fields,
                "format": FORMAT,
                "name": self.name,
                "version": self.version,
                "files": [entry.to_json() for entry in sorted(self.files, key=lambda entry: entry.path)],
                "inputs": [spec.to_json() for spec in self.inputs],
                "features": [spec.to_json() for spec in self.features],
                "outputs": [spec.to_json() for spec in self.outputs],
                "variants": [variant.to_json() for variant in self.variants],
                "golden": self.golden.to_json(),
                "features_digest": self.features_digest,
                "lineage": self.lineage.to_json(),
                "labels": list(self.labels),
                "max_batch": self.max_batch,
                "confidence_output": self.confidence_output,
                "returns": list(self.returns),
                "metrics": self.metrics,
            }
        )

    @property
    def digest(self) -> str:
        """The package's digest: sha256 of manifest.json, which lists the digest of everything else."""
        return sha256(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read manifest.json. Bytes that are not the canonical form are refused: one manifest has one digest.

        Raises:
            InvalidDocument: with the field and the reason.
        """
        reader = parse(data, "package manifest", MAX_MANIFEST_BYTES)
        reader.format(FORMAT)
        manifest = cls(
            name=reader.text("name", check=names.model_name),
            version=reader.text("version", check=names.version),
            files=reader.objects("files", FileEntry.read),
            inputs=reader.objects("inputs", TensorSpec.read),
            features=reader.objects("features", TensorSpec.read),
            outputs=reader.objects("outputs", TensorSpec.read),
            variants=reader.objects("variants", Variant.read),
            golden=reader.object("golden", Golden.read),
            features_digest=reader.text("features_digest", check=names.digest),
            lineage=reader.object("lineage", Lineage.read),
            labels=reader.strings("labels"),
            max_batch=reader.integer("max_batch", minimum=1, maximum=MAX_BATCH_LIMIT),
            confidence_output=reader.text("confidence_output"),
            returns=reader.strings("returns"),
            metrics=reader.numbers_by_name("metrics"),
            guards=reader.objects("guards", Guard.read, ()),
            comparisons=reader.objects("comparisons", Comparison.read, ()),
            probes=reader.objects("probes", Probe.read, ()),
            budgets=reader.object("budgets", Budgets.read) if "budgets" in reader.names() else Budgets(),
            control_flow=reader.strings("control_flow", ()),
            states=reader.objects("states", State.read, ()),
            codecs=reader.objects("codecs", Codec.read, ()),
        )
        reader.close()
        if manifest.to_bytes() != data:
            raise InvalidDocument("The package manifest is not in canonical form.", "Compile the package again.")
        return manifest
