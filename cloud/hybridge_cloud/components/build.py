"""Build components: what lies in components/ and recipes/, made into what an account can publish."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridge_cloud.components import archive, checkout, download, recipe, wheelhouse
from hybridge_cloud.components.lock import Pin
from hybridge_cloud.components.target import Target, here
from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, sha256
from hybridge_edge.contract.errors import UsageError

COMPONENTS = ("InferenceServer", "SensorPipeline", "SampleUplink")
EXTRAS = ("camera",)
"""Wheels that a component can do without: components/NAME/wheels-EXTRA.txt."""
WHEELHOUSE = "wheelhouse.zip"
MODEL_ARTIFACT = "model.zip"
ACTIVATOR = "activate.py"
RECIPE = "recipe.yaml"
_ANY_BUCKET = "bucket"


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a component: ``name`` is its place below the component version's prefix, such as
    ``aarch64/wheelhouse.zip``; ``digest`` is hexadecimal sha256."""

    name: str
    path: Path
    digest: str

    @classmethod
    def of(cls, name: str, path: Path) -> Artifact:
        return cls(name, path, download.digest(path))

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size


@dataclass(frozen=True, slots=True)
class Component:
    """A component version ready to be published.

    Attributes:
        template: its recipe's template. name: its full name. artifacts: the files it brings.
        content: ``sha256:`` and a digest of what it is: the same content may be published twice, other content not.
        parts: what that digest is made of, to say what differs: the recipe, the artifacts and the files in them, each
            with its digest; () where only the whole counts.
    """

    template: str
    name: str
    version: str
    prefix: str
    artifacts: tuple[Artifact, ...]
    content: str
    parts: tuple[tuple[str, str], ...] = ()

    def key(self, artifact: Artifact) -> str:
        """The S3 key of one of its artifacts."""
        return names.component_artifact_key(self.name, self.version, artifact.name)

    def recipe(self, bucket: str) -> bytes:
        files = [artifact.name for artifact in self.artifacts]
        return recipe.fill(self.template, self.name, self.version, bucket, self.prefix, files)


def build(
    out: Path,
    prefix: str = names.DEFAULT_PREFIX,
    version: str = "",
    only: tuple[str, ...] = (),
    targets: Sequence[Target] = (),
    extras: Sequence[str] = (),
) -> Iterator[Component]:
    """Build the device's components below ``out``: OUT/NAME/ARCHITECTURE/wheelhouse.zip and OUT/NAME/recipe.yaml.

    Args:
        version: of the components; the checkout's where it is "".
        only: short names of some of them; all where it is ().
        targets: what to build for; this machine and interpreter where it is ().
        extras: some of EXTRAS, for the components that have them.

    Raises:
        UsageError: an unknown component or extra. InvalidDocument: one of their recipes has an error; then nothing is
            built. Refused: a wheel is not for a target. Unavailable: wheels could not be downloaded.
    """
    chosen, extras = _checked(only), _checked_extras(extras)
    for short in chosen:
        recipe.checked(short)
    given = names.version(version or checkout.component_version())
    full_names = names.ComponentNames(prefix)
    by_architecture = _by_architecture(targets or (here(),))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".device-wheel-", dir=out) as temporary:
        device_wheel = wheelhouse.build_device_wheel(Path(temporary))
        for short in chosen:
            wheels = wheelhouse.of_component(short, extras)
            artifacts = []
            for architecture, its_targets in by_architecture.items():
                place = f"{architecture}/{WHEELHOUSE}"
                path = out / short / place
                path.parent.mkdir(parents=True, exist_ok=True)
                artifacts.append(Artifact.of(place, wheelhouse.write_zip(path, wheels, device_wheel, its_targets)))
            name = f"{full_names.prefix}.{short}"
            text = recipe.fill(short, name, given, _ANY_BUCKET, prefix, [one.name for one in artifacts])
            (out / short / RECIPE).write_bytes(text)
            parts = {"the recipe": sha256(text), **{one.name: f"sha256:{one.digest}" for one in artifacts}}
            content = sha256(canonical(parts))
            for one in artifacts:
                parts.update({f"{one.name}/{file}": digest for file, digest in archive.members(one.path).items()})
            yield Component(short, name, given, prefix, tuple(artifacts), content, tuple(parts.items()))


def to_download(
    only: tuple[str, ...] = (), targets: Sequence[Target] = (), extras: Sequence[str] = ()
) -> tuple[Pin, ...]:
    """The wheels that ``build`` would have to download, each once."""
    found = {}
    for target in targets or (here(),):
        for short in _checked(only):
            pins = wheelhouse.pins_of(wheelhouse.of_component(short, _checked_extras(extras)), target)
            found.update({(target, pin.name): pin for pin in download.missing(pins, target)})
    return tuple(found.values())


def build_model(out: Path, package: Path, model: str, version: str, content: str, prefix: str) -> Component:
    """Build the component that carries a model's package: OUT/model.zip with ``package/`` and ``activate.py``.

    Args:
        package: the package's folder, verified by the caller. content: a digest of everything in it.
    """
    name = names.ComponentNames(prefix).model(model)
    files = {f"package/{path.relative_to(package)}": path for path in sorted(package.rglob("*")) if path.is_file()}
    activator = (checkout.root() / "components" / "model" / ACTIVATOR).read_bytes()
    packed = archive.pack(out / MODEL_ARTIFACT, files, {ACTIVATOR: activator})
    return Component(recipe.MODEL, name, version, prefix, (Artifact.of(MODEL_ARTIFACT, packed),), content)


def _checked(only: tuple[str, ...]) -> tuple[str, ...]:
    unknown = sorted(set(only) - set(COMPONENTS))
    if unknown:
        raise UsageError(f"There is no component {unknown[0]!r}.", f"Name one of {', '.join(COMPONENTS)}.")
    return tuple(dict.fromkeys(only)) or COMPONENTS


def _checked_extras(extras: Sequence[str]) -> tuple[str, ...]:
    unknown = sorted(set(extras) - set(EXTRAS))
    if unknown:
        raise UsageError(f"There is no extra {unknown[0]!r}.", f"Name one of {', '.join(EXTRAS)}.")
    return tuple(dict.fromkeys(extras))


def _by_architecture(targets: Sequence[Target]) -> dict[str, tuple[Target, ...]]:
    ordered = sorted(set(targets), key=lambda one: (one.architecture, int(one.digits)))
    return {key: tuple(group) for key, group in itertools.groupby(ordered, key=lambda one: one.architecture)}
