"""Rules of artifacts, and of the paths by which scripts reach them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from hybridge_cloud.recipes.recipe import Recipe, Shell, file_name
from hybridge_cloud.recipes.rule import Hit, Nucleus, Rule, Severity
from hybridge_cloud.recipes.shell import commands

SCHEMES = ("s3", "docker", "greengrass")
SHA256_BYTES = 32
_UNPACKED = "{artifacts:decompressedPath}"
_PLAIN = "{artifacts:path}"
_S3 = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{2,62}/[^\s?]+[^/\s]")
_FIRST_PART = re.compile(r"/([A-Za-z0-9._+-]+)")


def uri(recipe: Recipe) -> Iterator[Hit]:
    for _, artifact in recipe.artifacts:
        found = artifact.text("Uri")
        if found is None or not found.value:
            continue
        scheme, separator, _ = found.value.partition(":")
        if not separator or scheme not in SCHEMES or (scheme == "s3" and _S3.fullmatch(found.value) is None):
            yield Hit(found.line, f"the Uri is {found.value[:100]!r}")


def same_name(recipe: Recipe) -> Iterator[Hit]:
    for manifest in recipe.manifests:
        seen: set[str] = set()
        for artifact in manifest.artifacts:
            found = artifact.text("Uri")
            name = file_name(artifact)
            if found is not None and name and name in seen:
                yield Hit(found.line, f"two artifacts are named {name[:80]!r}")
            seen.add(name)


def unarchive(recipe: Recipe) -> Iterator[Hit]:
    for _, artifact in recipe.artifacts:
        found = artifact.text("Unarchive")
        if found is not None and found.value not in ("NONE", "ZIP"):
            yield Hit(found.line, f"Unarchive is {found.value[:40]!r}")


def permission(recipe: Recipe) -> Iterator[Hit]:
    for _, artifact in recipe.artifacts:
        table = artifact.table("Permission")
        for entry in table.entries if table is not None else ():
            value = table.word(entry.key) if table is not None else ""
            if value not in ("NONE", "OWNER", "ALL"):
                yield Hit(entry.line, f"{entry.key} is {value[:40]!r}")


def digest(recipe: Recipe) -> Iterator[Hit]:
    for _, artifact in recipe.artifacts:
        value, algorithm = artifact.text("Digest"), artifact.text("Algorithm")
        if value is not None and algorithm is None:
            yield Hit(value.line, "Digest stands without Algorithm")
        if algorithm is not None and value is None:
            yield Hit(algorithm.line, "Algorithm stands without Digest")
        if algorithm is not None and algorithm.value != "SHA-256":
            yield Hit(algorithm.line, f"Algorithm is {algorithm.value[:40]!r}")
        if value is not None and not _is_sha256(value.value):
            yield Hit(value.line, f"Digest is {value.value[:80]!r}")


def _is_sha256(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == SHA256_BYTES
    except (binascii.Error, ValueError):
        return False


def _first_parts(recipe: Recipe, variable: str) -> Iterator[tuple[Shell, int, str]]:
    """Uses of a folder's variable: the text, the line, and the first part of the path behind it, "" for the folder."""
    for shell in recipe.shells:
        text = shell.text.value
        at = text.find(variable)
        while at >= 0:
            found = _FIRST_PART.match(text, at + len(variable))
            yield shell, recipe.line_of(shell.text, at, len(variable)), found[1] if found else ""
            at = text.find(variable, at + 1)


def unpacked_path(recipe: Recipe) -> Iterator[Hit]:
    for shell, line, part in _first_parts(recipe, _UNPACKED):
        folders = shell.manifest.unpacked
        if not folders:
            yield Hit(line, "no artifact of this manifest says Unarchive: ZIP")
        elif part and part not in folders:
            yield Hit(line, f"{part[:60]!r} is none of the unpacked folders ({', '.join(sorted(folders))[:120]})")


def packed_path(recipe: Recipe) -> Iterator[Hit]:
    for shell, line, part in _first_parts(recipe, _PLAIN):
        names = {file_name(artifact) for artifact in shell.manifest.artifacts}
        if part and part not in names:
            yield Hit(line, f"{part[:60]!r} is no artifact of this manifest")


def executable(recipe: Recipe) -> Iterator[Hit]:
    for shell in recipe.scripts:
        for command in commands(shell.text.value):
            folder, _, path = command.name.partition("}/")
            if f"{folder}}}" not in (_PLAIN, _UNPACKED):
                continue
            for artifact in shell.manifest.artifacts:
                name = file_name(artifact)
                of_it = path == name if f"{folder}}}" == _PLAIN else path.partition("/")[0] == name.rpartition(".")[0]
                permissions = artifact.table("Permission")
                if of_it and (permissions is None or permissions.word("Execute") not in ("OWNER", "ALL")):
                    line = recipe.line_of(shell.text, command.offset, len(folder))
                    yield Hit(line, f"{path[:80]!r} is run as a program, and its artifact may not be executed")


_BOTH, _ERROR, _WARNING = Nucleus.BOTH, Severity.ERROR, Severity.WARNING

RULES = (
    Rule("artifact-uri", _BOTH, _ERROR, "A device fetches artifacts from s3://BUCKET/KEY, docker: or greengrass: only.",
         "Put the file into S3 and write s3://BUCKET/KEY.", uri),
    Rule("artifact-name", _BOTH, _ERROR, "Artifacts of a manifest lie in one folder, and one takes the other's place.",
         "Give each artifact a file name of its own.", same_name),
    Rule("artifact-unarchive", _BOTH, _ERROR, "Unarchive is ZIP or NONE; no other archive is unpacked.",
         "Make a ZIP of it and write Unarchive: ZIP.", unarchive),
    Rule("artifact-permission", _BOTH, _ERROR, "Read and Execute are NONE, OWNER or ALL.",
         "Write one of the three.", permission),
    Rule("artifact-digest", _BOTH, _ERROR,
         "A digest is the base64 text of 32 bytes of SHA-256; one that does not match fails the deployment.",
         "Leave both Digest and Algorithm out: the cloud writes them when the version is created.", digest),
    Rule("unarchive-path", _BOTH, _ERROR,
         "A ZIP is unpacked to {artifacts:decompressedPath}/NAME, where NAME is its file name without .zip.",
         "Write Unarchive: ZIP at the artifact, and its name behind the variable.", unpacked_path),
    Rule("artifact-path", _BOTH, _WARNING, "The folder holds this manifest's artifacts and nothing else.",
         "Add the artifact, or correct the name.", packed_path),
    Rule("artifact-execute", _BOTH, _WARNING, "Artifacts are not executable unless their recipe says so.",
         "Write Permission: {Execute: OWNER}, or start it by its interpreter.", executable),
)  # fmt: skip
