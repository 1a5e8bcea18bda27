"""Build components: what lies in components/ and recipes/, made into what an account can publish."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hybridge_cloud.components import checkout, recipe, wheelhouse
from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, sha256
from hybridge_edge.contract.errors import UsageError

COMPONENTS = ("InferenceServer", "SensorPipeline", "SampleUplink")
WHEELHOUSE = "wheelhouse.zip"
MODEL_ARTIFACT = "model.zip"
ACTIVATOR = "activate.py"
_ANY_BUCKET = "bucket"


@dataclass(frozen=True, slots=True)
class Component:
    """A component version ready to be published.

    Attributes:
        template: its recipe's template. name: its full name. artifact: the one file it brings.
        content: ``sha256:`` and a digest of what it is: the same content may be published twice, other content not.
    """

    template: str
    name: str
    version: str
    prefix: str
    artifact: Path
    content: str

    @property
    def key(self) -> str:
        """The S3 key of its artifact."""
        return names.component_artifact_key(self.name, self.version, self.artifact.name)

    def recipe(self, bucket: str) -> bytes:
        return recipe.fill(self.template, self.name, self.version, bucket, self.prefix)


def build(
    out: Path, prefix: str = names.DEFAULT_PREFIX, version: str = "", only: tuple[str, ...] = ()
) -> Iterator[Component]:
    """Build the device's components below ``out``, one after the other, as OUT/NAME/wheelhouse.zip.

    Args:
        version: of the components; the checkout's where it is "".
        only: short names of some of them; all where it is ().

    Raises:
        UsageError: an unknown component. Unavailable: wheels could not be downloaded.
    """
    unknown = sorted(set(only) - set(COMPONENTS))
    if unknown:
        raise UsageError(f"There is no component {unknown[0]!r}.", f"Name one of {', '.join(COMPONENTS)}.")
    given = names.version(version or checkout.component_version())
    full_names = names.ComponentNames(prefix)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".device-wheel-", dir=out) as temporary:
        device_wheel = wheelhouse.build_device_wheel(Path(temporary))
        for short in only or COMPONENTS:
            folder = out / short
            folder.mkdir(exist_ok=True)
            wheels = wheelhouse.read_list(checkout.root() / "components" / short / "wheels.txt")
            artifact = wheelhouse.write_zip(folder / WHEELHOUSE, wheels, device_wheel)
            name = f"{full_names.prefix}.{short}"
            text = recipe.fill(short, name, given, _ANY_BUCKET, prefix)
            content = sha256(canonical({"artifact": wheelhouse.digest(artifact), "recipe": sha256(text)}))
            yield Component(short, name, given, prefix, artifact, content)


def build_model(out: Path, package: Path, model: str, version: str, content: str, prefix: str) -> Component:
    """Build the component that carries a model's package: OUT/model.zip with ``package/`` and ``activate.py``.

    Args:
        package: the package's folder, verified by the caller. content: a digest of everything in it.
    """
    name = names.ComponentNames(prefix).model(model)
    files = {f"package/{path.relative_to(package)}": path for path in sorted(package.rglob("*")) if path.is_file()}
    activator = (checkout.root() / "components" / "model" / ACTIVATOR).read_bytes()
    artifact = wheelhouse.pack(out / MODEL_ARTIFACT, files, {ACTIVATOR: activator})
    return Component(recipe.MODEL, name, version, prefix, artifact, content)
