"""The four stages of a retraining. Each reads what the one before left in S3 and leaves its own word there.

A stage first makes sure that the dataset is its execution's, and repeated by the same execution it says again what it
said. Quality pins the champion, so that all stages speak of the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hybridge_cloud import publish as publishing
from hybridge_cloud import registry
from hybridge_cloud.data import dataset as datasets
from hybridge_cloud.retrain import archive, state
from hybridge_cloud.retrain.audit import Audit, audit
from hybridge_cloud.retrain.claim import check_claim, claim
from hybridge_cloud.retrain.compare import compare
from hybridge_cloud.retrain.material import Material, gather
from hybridge_cloud.retrain.plan import Plan
from hybridge_cloud.retrain.verdicts import Evaluated, PublishedVersion, Quality
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import Refused, Unavailable
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.training.project import Project

MINIMUM_KEPT_SAMPLES = 20
MINIMUM_CLASSES = 2
RUN_FOLDER = "run"
PACKAGE_FOLDER = "package"


class Stages:
    """The stages of one execution.

    Args:
        dataset: key of the numbered dataset. execution: id of the pipeline's execution, which claims it.
        work: an empty folder of its own. tell: gets a sentence at each step.
    """

    def __init__(
        self, bucket: Bucket, plan: Plan, dataset: str, execution: str, work: Path, tell: Callable[[str], None]
    ) -> None:
        self._bucket = bucket
        self._plan = plan
        self._dataset = dataset
        self._execution = execution
        self._work = work
        self._tell = tell
        self._model, _ = datasets.parse_key(dataset)

    def quality(self) -> Quality:
        """Claim the dataset and judge whether it is fit to train on. Raises Duplicate, or Refused with the reason."""
        claim(self._bucket, self._dataset, self._execution)
        quality = Quality.read(self._bucket, self._dataset)
        if quality is None:
            quality = self._judge()
            quality.write(self._bucket, self._dataset)
        self._tell(quality.reason)
        if not quality.accepted:
            raise Refused(f"{self._dataset} is not fit to train on: {quality.reason}")
        return quality

    def _judge(self) -> Quality:
        serving = registry.champion(self._plan.fleet, self._model, self._bucket)
        if serving is None:
            raise Refused(
                f"The fleet {self._plan.fleet} runs no {self._model}: there is nothing to challenge.",
                "Publish and deploy a first version.",
            )
        version = serving.version
        champion = self._fetch(version)[1]
        try:
            material = self._gather(champion)
            found = audit(material.features, material.labels)
        except Unavailable:
            raise
        except Refused as error:
            return Quality(False, str(error), version, champion.digest)
        reason = self._objection(material, found)
        counts = material.counts
        good = (
            f"{counts.kept} of {counts.samples} samples of {len(counts.by_device)} devices in "
            f"{len(counts.by_label)} classes, {counts.duplicates} duplicates removed, {found.share:.1%} suspect labels."
        )
        if counts.relabelled:
            good += f" {counts.relabelled} samples of earlier datasets have another label now."
        if remarks := counts.joined.remarks():
            good += f" Of the labels: {remarks}."
        return Quality(not reason, reason or good, version, champion.digest, counts, found.audited, found.suspects)

    def _objection(self, material: Material, found: Audit) -> str:
        if material.counts.kept < MINIMUM_KEPT_SAMPLES or len(material.counts.by_label) < MINIMUM_CLASSES:
            return f"{material.counts.kept} samples in {len(material.counts.by_label)} classes are too few."
        if found.shows_more_than(self._plan.suspect_share):
            return (
                f"{found.suspects} of {found.audited} labels contradict their neighbours ({found.share:.1%}); "
                f"{self._plan.suspect_share:.1%} are allowed."
            )
        return ""

    def train(self) -> None:
        """Train the challenger on the project's data and the dataset's, the champion's features frozen."""
        from hybridge_cloud.training.train import ReturnedSamples, retrain_run

        quality = self._accepted()
        if state.stored(self._bucket, self._dataset, RUN_FOLDER):
            self._tell("This execution trained already.")
            return
        champion, manifest = self._champion(quality)
        material = self._gather(manifest)
        self._tell(f"Training on {material.counts.kept} returned samples and the project's own.")
        config = retrain_run(
            self._project().folder,
            self._work / RUN_FOLDER,
            champion,
            ReturnedSamples(material.features, material.labels),
            split=self._plan.split,
            seed=None if self._plan.seed < 0 else self._plan.seed,
            dataset_key=self._dataset,
            parent_digest=quality.champion_digest,
        )
        state.upload(self._bucket, self._dataset, RUN_FOLDER, self._work / RUN_FOLDER)
        self._tell(f"Trained {config.run}.")

    def evaluate(self) -> Evaluated:
        """Compile the challenger and compare it with the champion on the frozen slice. Raises Refused unless better."""
        quality = self._accepted()
        evaluated = Evaluated.read(self._bucket, self._dataset)
        if evaluated is None:
            evaluated = self._evaluate(quality)
            evaluated.write(self._bucket, self._dataset)
        self._tell(evaluated.comparison.reason)
        if not evaluated.comparison.promote:
            raise Refused(f"{self._model} {evaluated.version} is not promoted. {evaluated.comparison.reason}")
        return evaluated

    def _evaluate(self, quality: Quality) -> Evaluated:
        from hybridge_cloud.compile.bundle import compile_run
        from hybridge_cloud.compile.evaluate import evaluate_package

        champion, _ = self._champion(quality)
        run = state.download(self._bucket, self._dataset, RUN_FOLDER, self._work / "trained")
        taken = registry.versions(self._bucket, self._model)
        version = next_major(max((*taken, quality.champion), key=names.version_key))
        task = self._project().task()
        # The manifest says how often the two disagreed, for the rollout to hold devices to.
        against = (champion,) if task.confidence_output else ()
        compiled = compile_run(run, self._work / PACKAGE_FOLDER, version, against)
        frozen = task.dataset(self._plan.split).frozen
        comparison = compare(
            evaluate_package(champion, frozen.inputs, frozen.labels, task).correct,
            evaluate_package(compiled.folder, frozen.inputs, frozen.labels, task).correct,
            frozen.groups,
            minimum_gain=self._plan.minimum_gain,
        )
        # The very bytes that were judged are what publish signs.
        state.upload(self._bucket, self._dataset, PACKAGE_FOLDER, compiled.folder)
        return Evaluated(compiled.manifest.version, compiled.manifest.digest, comparison)

    def publish(self, signing_key: Path) -> PublishedVersion:
        """Sign the challenger that was judged better, with the key in that file, and publish it for the fleet."""
        from hybridge_cloud.signing import sign_package

        self._accepted()
        evaluated = Evaluated.read(self._bucket, self._dataset)
        if evaluated is None or not evaluated.comparison.promote:
            raise Refused(f"No challenger of {self._dataset} was judged better.", "Run the evaluate stage first.")
        done = PublishedVersion.read(self._bucket, self._dataset)
        if done is None:
            folder = state.download(self._bucket, self._dataset, PACKAGE_FOLDER, self._work / PACKAGE_FOLDER)
            found = Manifest.from_bytes((folder / MANIFEST_FILE).read_bytes())
            if found.digest != evaluated.digest:
                raise Refused(f"The package of {self._dataset} is not the one that was judged.")
            sign_package(folder, signing_key)
            publishing.publish(folder, self._plan.fleet, self._plan.believed, self._bucket)
            done = PublishedVersion(self._model, evaluated.version, evaluated.digest)
            done.write(self._bucket, self._dataset)
        self._tell(f"Published {done.model} {done.version}.")
        return done

    def _accepted(self) -> Quality:
        check_claim(self._bucket, self._dataset, self._execution)
        quality = Quality.read(self._bucket, self._dataset)
        if quality is None or not quality.accepted:
            raise Refused(f"{self._dataset} was not accepted.", "Run the quality stage first.")
        return quality

    def _gather(self, champion: Manifest) -> Material:
        dataset = datasets.read(self._bucket, self._dataset)
        return gather(self._bucket, dataset, champion, self._plan.device_share)

    def _champion(self, quality: Quality) -> tuple[Path, Manifest]:
        folder, manifest = self._fetch(quality.champion)
        if manifest.digest != quality.champion_digest:
            raise Refused(f"The champion {self._model} {quality.champion} is not the one that quality saw.")
        return folder, manifest

    def _fetch(self, version: str) -> tuple[Path, Manifest]:
        folder = self._work / f"champion-{version}"
        if folder.exists():
            return folder, Manifest.from_bytes((folder / MANIFEST_FILE).read_bytes())
        return folder, publishing.fetch(self._model, version, folder, self._plan.believed, self._bucket)

    def _project(self) -> Project:
        from hybridge_cloud.training.project import load_project

        folder = self._work / "project"
        if not folder.exists():
            folder.mkdir()
            archive.fetch(self._bucket, self._plan.project, folder)
        return load_project(folder)


def next_major(version: str) -> str:
    """The version a retrained package gets: 1.0.0 -> 2.0.0."""
    return f"{names.version_key(version)[0] + 1}.0.0"
