"""Between HTTP and Python, driven by botocore's service models: routes, requests, checks, answers and errors."""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import botocore.session
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StringShape, StructureShape
from botocore.validate import ParamValidator

Document = dict[str, Any]
"""A request or an answer in the form that botocore's models give it: timestamps are datetime, blobs are bytes."""


class ServiceError(Exception):
    """An error of the service's own model, or one that every AWS service may answer.

    Args:
        code: the error's shape, such as ``ConflictException``.
        message: one sentence. members: further members of the error's shape.
    """

    def __init__(self, code: str, message: str, **members: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.members = members


def not_found(resource_type: str, resource_id: str) -> ServiceError:
    """ResourceNotFoundException as Greengrass fills it."""
    return ServiceError(
        "ResourceNotFoundException",
        f"The {resource_type} {resource_id} was not found.",
        resourceId=resource_id,
        resourceType=resource_type,
    )


def invalid(message: str) -> ServiceError:
    return ServiceError("ValidationException", message)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Route:
    method: str
    path: re.Pattern[str]
    operation: str


Handler = Callable[[Document], Document]


class Service:
    """One AWS service: its model and the handlers of the operations that the sandbox serves."""

    def __init__(self, name: str, handlers: Mapping[str, Handler]) -> None:
        self.model: ServiceModel = botocore.session.get_session().get_service_model(name)
        self.handlers = dict(handlers)
        self.rest = "rest-json" in self.model.metadata["protocols"]
        self.target_prefix = self.model.metadata.get("targetPrefix", "")
        self.routes = [self._route(operation) for operation in handlers] if self.rest else []

    def _route(self, operation: str) -> _Route:
        http = self.model.operation_model(operation).http
        parts = re.split(r"\{([^}]+)\}", http["requestUri"])
        pattern = "".join(
            re.escape(part) if index % 2 == 0 else f"(?P<{part.rstrip('+')}>{'.+' if part.endswith('+') else '[^/]+'})"
            for index, part in enumerate(parts)
        )
        return _Route(http["method"], re.compile(pattern), operation)

    def find(self, method: str, raw_path: str, target: str) -> tuple[str, Document] | None:
        """The operation of a request, and the parameters its path holds; None where it is none of this service's."""
        if not self.rest:
            prefix, _, operation = target.partition(".")
            return (operation, {}) if prefix == self.target_prefix else None
        for route in self.routes:
            match = route.path.fullmatch(raw_path)
            if match and route.method == method:
                return route.operation, {key: unquote(value) for key, value in match.groupdict().items()}
        return None

    def call(self, operation: str, path: Document, query: list[tuple[str, str]], body: bytes) -> Answer:
        """Answer one request; an error of the service becomes an error answer."""
        try:
            if operation not in self.handlers:
                raise ServiceError("UnknownOperationException", f"The sandbox does not serve {operation}.")
            model = self.model.operation_model(operation)
            request = self._request(model, path, query, body)
            return self._answer(model, self.handlers[operation](request))
        except ServiceError as error:
            return self.failure(error)

    def _request(self, model: OperationModel, path: Document, query: list[tuple[str, str]], body: bytes) -> Document:
        shape = model.input_shape
        if shape is None:
            return {}
        try:
            sent = json.loads(body) if body else {}
        except ValueError:
            raise ServiceError("SerializationException", "The request's body is not JSON.") from None
        if not isinstance(sent, dict):
            raise ServiceError("SerializationException", "The request's body is not a JSON object.")
        request: Document = {}
        for name, member in shape.members.items():
            location = member.serialization.get("location")
            wire_name = member.serialization.get("name", name)
            if location == "uri":
                request[name] = path[wire_name]
            elif location == "querystring":
                values = [value for key, value in query if key == wire_name]
                if values:
                    request[name] = _from_query(member, values)
            elif sent.get(wire_name) is not None:
                request[name] = _from_json(member, sent[wire_name], name)
        report = ParamValidator().validate(request, shape)
        if report.has_errors():
            raise invalid(report.generate_report())
        if problems := _constraints(shape, request, ""):
            raise invalid("; ".join(problems))
        return request

    def _answer(self, model: OperationModel, document: Document) -> Answer:
        status = int(model.http.get("responseCode", 200))
        headers = {"Content-Type": "application/json" if self.rest else "application/x-amz-json-1.1"}
        shape = model.output_shape
        if shape is None:
            return Answer(status, b"" if status == 204 else b"{}", headers)
        report = ParamValidator().validate(document, shape)
        problems = _constraints(shape, document, "")
        if report.has_errors() or problems:
            # A fault of ours, never the caller's: say so rather than send what a real service could not have sent.
            text = report.generate_report() + "; ".join(problems)
            raise ServiceError("InternalServerException", f"The sandbox's answer to {model.name} is malformed: {text}")
        return Answer(status, json.dumps(_to_json(shape, document)).encode(), headers)

    def failure(self, error: ServiceError) -> Answer:
        """The answer that makes boto3 raise ``error``."""
        status = 500 if error.code.startswith("Internal") else 400
        if error.code in self.model.shape_names:
            status = self.model.shape_for(error.code).metadata.get("error", {}).get("httpStatusCode", status)
        body = {"message": error.message, **error.members}
        if self.rest:
            headers = {"Content-Type": "application/json", "x-amzn-ErrorType": error.code}
        else:
            headers = {"Content-Type": "application/x-amz-json-1.1"}
            body["__type"] = error.code
        return Answer(status, json.dumps(body).encode(), headers)


def _from_query(shape: Shape, values: list[str]) -> Any:
    if isinstance(shape, ListShape):
        return values
    if shape.type_name in ("integer", "long"):
        try:
            return int(values[0])
        except ValueError:
            raise invalid(f"{values[0]!r} is not a number.") from None
    return values[0] == "true" if shape.type_name == "boolean" else values[0]


def _from_json(shape: Shape, value: Any, name: str) -> Any:
    """JSON to Python by shape; members a shape does not have are left out, as AWS does."""
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        return {
            key: _from_json(member, value[key], f"{name}.{key}")
            for key, member in shape.members.items()
            if value.get(key) is not None
        }
    if isinstance(shape, ListShape) and isinstance(value, list):
        return [_from_json(shape.member, entry, name) for entry in value]
    if isinstance(shape, MapShape) and isinstance(value, dict):
        return {key: _from_json(shape.value, entry, f"{name}.{key}") for key, entry in value.items()}
    if shape.type_name == "blob":
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise ServiceError("SerializationException", f"{name} is not base64.") from None
    if shape.type_name == "timestamp" and isinstance(value, int | float):
        return datetime.datetime.fromtimestamp(value, datetime.UTC)
    return value


def _to_json(shape: Shape, value: Any) -> Any:
    if isinstance(shape, StructureShape):
        return {
            member.serialization.get("name", key): _to_json(member, value[key])
            for key, member in shape.members.items()
            if value.get(key) is not None
        }
    if isinstance(shape, ListShape):
        return [_to_json(shape.member, entry) for entry in value]
    if isinstance(shape, MapShape):
        return {key: _to_json(shape.value, entry) for key, entry in value.items()}
    if shape.type_name == "blob":
        return base64.b64encode(value).decode()
    if shape.type_name == "timestamp":
        return value.timestamp()
    return value


def _constraints(shape: Shape, value: Any, name: str) -> list[str]:
    """What botocore leaves to the service: enumerations, patterns and upper limits."""
    if isinstance(shape, StructureShape):
        return [
            problem
            for key, member in shape.members.items()
            if key in value
            for problem in _constraints(member, value[key], f"{name}.{key}")
        ]
    problems: list[str] = []
    limit = shape.metadata.get("max")
    if limit is not None and (value if isinstance(value, int | float) else len(value)) > limit:
        problems.append(f"{name.lstrip('.')} is above its limit of {limit}")
    if isinstance(shape, ListShape):
        problems += [problem for entry in value for problem in _constraints(shape.member, entry, f"{name}[]")]
    elif isinstance(shape, MapShape):
        problems += [problem for entry in value.values() for problem in _constraints(shape.value, entry, name)]
    elif isinstance(shape, StringShape):
        if shape.enum and value not in shape.enum:
            problems.append(f"{name.lstrip('.')} must be one of {', '.join(shape.enum)}")
        pattern = shape.metadata.get("pattern")
        if pattern and not _matches(pattern, value):
            problems.append(f"{name.lstrip('.')} does not match {pattern}")
    return problems


def _matches(pattern: str, value: str) -> bool:
    try:
        return re.fullmatch(pattern, value) is not None
    except re.error:
        return True  # a Java pattern that Python cannot read
