"""Our text of the protocol is the protocol's: names, numbers and types equal those inside tritonclient."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor
from tritonclient.grpc import model_config_pb2 as their_config
from tritonclient.grpc import service_pb2 as theirs

from hybridge_edge.contract.protos import model_config_pb2 as our_config
from hybridge_edge.contract.protos import open_inference_pb2 as ours
from hybridge_edge.contract.protos import open_inference_pb2_grpc

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "edge" / "hybridge_edge" / "contract" / "protos"


def every_message(found: descriptor.Descriptor) -> list[descriptor.Descriptor]:
    return [found] + [one for nested in found.nested_types for one in every_message(nested)]


def messages_of(file: descriptor.FileDescriptor) -> list[descriptor.Descriptor]:
    return [one for top in file.message_types_by_name.values() for one in every_message(top)]


def their_message(file: descriptor.FileDescriptor, message: descriptor.Descriptor) -> descriptor.Descriptor:
    top, *nested = message.full_name.removeprefix("inference.").split(".")
    found = file.message_types_by_name[top]
    for name in nested:
        found = found.nested_types_by_name[name]
    return found


def fields(message: descriptor.Descriptor) -> dict[str, tuple[object, ...]]:
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.message_type.full_name if field.message_type else None,
            field.containing_oneof.name if field.containing_oneof else None,
        )
        for field in message.fields
    }


@pytest.mark.parametrize("message", messages_of(ours.DESCRIPTOR), ids=lambda message: message.full_name)
def test_every_message_equals_tritonclients(message: descriptor.Descriptor) -> None:
    other = their_message(theirs.DESCRIPTOR, message)
    assert fields(message) == fields(other)
    assert message.GetOptions().map_entry == other.GetOptions().map_entry


@pytest.mark.parametrize("message", messages_of(our_config.DESCRIPTOR), ids=lambda message: message.full_name)
def test_every_part_of_a_configuration_is_a_part_of_tritonclients(message: descriptor.Descriptor) -> None:
    other = their_message(their_config.DESCRIPTOR, message)
    assert fields(message).items() <= fields(other).items()
    assert fields(message)
    assert message.GetOptions().map_entry == other.GetOptions().map_entry
    for enum in message.enum_types:
        assert numbers(enum) == numbers(other.enum_types_by_name[enum.name])


def test_the_names_of_datatypes_in_a_configuration_equal_tritonclients() -> None:
    (enum,) = our_config.DESCRIPTOR.enum_types_by_name.values()
    assert numbers(enum) == numbers(their_config.DESCRIPTOR.enum_types_by_name[enum.name])


def numbers(enum: descriptor.EnumDescriptor) -> dict[str, int]:
    return {value.name: value.number for value in enum.values}


def test_every_verb_equals_tritonclients() -> None:
    def verbs(file: descriptor.FileDescriptor) -> dict[str, tuple[object, ...]]:
        return {
            verb.name: (
                verb.input_type.full_name,
                verb.client_streaming,
                verb.output_type.full_name,
                verb.server_streaming,
            )
            for verb in file.services_by_name["GRPCInferenceService"].methods
        }

    assert verbs(ours.DESCRIPTOR) == verbs(theirs.DESCRIPTOR)
    assert len(verbs(ours.DESCRIPTOR)) == 20


def test_the_comparison_sees_a_difference() -> None:
    """The positive control: two messages that differ in one number are not equal."""
    assert fields(ours.ModelInferRequest.DESCRIPTOR) != fields(theirs.ModelInferResponse.DESCRIPTOR)


def test_a_message_of_ours_is_read_by_tritonclients_classes_in_the_same_process() -> None:
    request = ours.ModelInferRequest(model_name="watch", id="a", raw_input_contents=[b"1234"])
    request.parameters["hybridge_capture"].bool_param = False
    request.inputs.add(name="window", datatype="FP32", shape=[1])
    read = theirs.ModelInferRequest.FromString(request.SerializeToString())
    assert read.inputs[0].name == "window"
    assert read.parameters["hybridge_capture"].WhichOneof("parameter_choice") == "bool_param"
    assert ours.DESCRIPTOR.pool is not theirs.DESCRIPTOR.pool


def test_the_committed_stubs_are_what_the_generator_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "scripts" / "protos"), "--out", str(tmp_path)], check=True)
    made = {path.name for path in FOLDER.glob("*_pb2*.py*")}
    assert len(made) == 5
    for name in made:
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text(), f"run scripts/protos: {name} is old"
    assert open_inference_pb2_grpc.GRPC_GENERATED_VERSION == "1.71.0"
