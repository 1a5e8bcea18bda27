"""What the server says of its models in the protocol's messages: metadata, configuration, statistics, index."""

from __future__ import annotations

from collections.abc import Iterable

from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.protos import model_config_pb2 as configs
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.contract.state import State
from hybridge_edge.contract.tensors import BYTES, ITEM_BYTES, TensorSpec
from hybridge_edge.serving.repository import Entry
from hybridge_edge.serving.residents import Resident, Residents
from hybridge_edge.serving.statistics import ModelStatistics

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"
READY, UNAVAILABLE = "READY", "UNAVAILABLE"
_NS = 1000
"""Nanoseconds in a microsecond."""


def metadata(manifest: Manifest, versions: Iterable[str]) -> messages.ModelMetadataResponse:
    """A model's signature."""
    return messages.ModelMetadataResponse(
        name=manifest.name,
        versions=versions,
        platform=PLATFORM,
        inputs=[_tensor(spec) for spec in manifest.inputs],
        outputs=[_tensor(spec) for spec in manifest.outputs],
    )


def configuration(resident: Resident) -> configs.ModelConfig:
    """What a client sets itself up by.

    A request holds at most ``max_batch_size`` rows, as does a run, in which requests are put together without waiting.
    It is 0 where a tensor has no batch axis, and dimensions are whole then.
    """
    manifest = resident.manifest
    batched = all(spec.shape[0] == -1 for spec in (*manifest.inputs, *manifest.outputs))
    on_gpu = "CPU" not in resident.engine.provider
    made = configs.ModelConfig(
        name=manifest.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=manifest.max_batch if batched else 0,
        version_policy=configs.ModelVersionPolicy(latest=configs.ModelVersionPolicy.Latest(num_versions=2)),
        input=[
            configs.ModelInput(name=one.name, data_type=_type(one), dims=_sizes(one, batched))
            for one in manifest.inputs
        ],
        output=[
            configs.ModelOutput(name=one.name, data_type=_type(one), dims=_sizes(one, batched))
            for one in manifest.outputs
        ],
        instance_group=[
            configs.ModelInstanceGroup(
                name=manifest.name,
                count=1,
                kind=configs.ModelInstanceGroup.KIND_GPU if on_gpu else configs.ModelInstanceGroup.KIND_CPU,
            )
        ],
        model_transaction_policy=configs.ModelTransactionPolicy(decoupled=False),
    )
    if manifest.states:
        made.sequence_batching.state.extend(_state(one) for one in manifest.states)
    elif batched and manifest.max_batch > 1:
        made.dynamic_batching.preferred_batch_size.append(manifest.max_batch)
    for name, text in (
        ("version", manifest.version),
        ("package_digest", resident.digest),
        ("features_digest", manifest.features_digest),
        ("provider", resident.engine.provider),
        ("labels", ",".join(manifest.labels)),
    ):
        made.parameters[name].string_value = text
    return made


def statistics(found: ModelStatistics) -> messages.ModelStatistics:
    """A version's sums in the protocol's terms: nanoseconds; rows are inferences, runs of the graphs executions.

    Copying is ``compute_input``; both graphs are ``compute_infer``. Times belong to answered requests; what failed is
    counted without one.
    """
    answered = found.requests
    made = messages.ModelStatistics(
        name=found.model,
        version=found.version,
        last_inference=found.last_ms,
        inference_count=found.rows,
        execution_count=found.executions,
        inference_stats=messages.InferStatistics(
            success=_duration(answered, found.total_us),
            fail=_duration(sum(count for _, count in found.failures), 0),
            queue=_duration(answered, found.queue_us),
            compute_input=_duration(answered, found.copy_us),
            compute_infer=_duration(answered, found.features_us + found.infer_us),
            compute_output=_duration(answered, 0),
        ),
    )
    for rows, runs in found.batches:
        made.batch_stats.add(batch_size=rows, compute_infer=_duration(runs, 0))
    return made


def index(
    residents: Residents, known: Iterable[Entry], *, ready: bool, reasons: bool
) -> messages.RepositoryIndexResponse:
    """Every version: those that answer first, then, unless only they are asked for, the others on record.

    Args:
        ready: only those that answer. reasons: whether to say why the others do not.
    """
    response = messages.RepositoryIndexResponse()
    answering = {(name, version) for name in residents.names() for version in residents.versions(name)}
    for name, version in sorted(answering):
        response.models.add(name=name, version=version, state=READY)
    for entry in known:
        if not ready and (entry.model, entry.version) not in answering:
            reason = entry.reason if reasons else ""
            response.models.add(name=entry.model, version=entry.version, state=UNAVAILABLE, reason=reason)
    return response


def largest_message(manifests: Iterable[Manifest]) -> int:
    """Bytes of the largest request or answer that a full batch of these models makes; of BYTES, those with a codec."""
    return max(
        (
            _batch_bytes(specs, one.max_batch) + sum(codec.max_bytes for codec in codecs) * one.max_batch
            for one in manifests
            for specs, codecs in ((one.inputs, one.codecs), (one.outputs, ()))
        ),
        default=0,
    )


def _batch_bytes(specs: Iterable[TensorSpec], rows: int) -> int:
    size = 0
    for spec in specs:
        elements = rows if spec.shape[0] == -1 else 1
        for dimension in spec.item_shape:
            elements *= dimension
        size += elements * ITEM_BYTES.get(spec.datatype, 0)
    return size


def _tensor(spec: TensorSpec) -> messages.ModelMetadataResponse.TensorMetadata:
    return messages.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _type(spec: TensorSpec | State) -> configs.DataType:
    name = "TYPE_STRING" if spec.datatype == BYTES else f"TYPE_{spec.datatype}"
    found: configs.DataType = getattr(configs, name)
    return found


def _state(state: State) -> configs.ModelSequenceBatching.State:
    made = configs.ModelSequenceBatching.State(
        input_name=state.input,
        output_name=state.output,
        data_type=_type(state),
        dims=state.shape,
    )
    if not state.initial:
        made.initial_state.add(name=state.input, data_type=_type(state), dims=state.shape, zero_data=True)
    return made


def _sizes(spec: TensorSpec, batched: bool) -> tuple[int, ...]:
    return spec.shape[1:] if batched else spec.shape


def _duration(count: int, us: int) -> messages.StatisticDuration:
    return messages.StatisticDuration(count=count, ns=us * _NS)
