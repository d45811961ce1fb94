"""`dermgen publish model`: a finished run as a model repository."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from dermgen.config import write_json
from dermgen.data import manifest
from dermgen.data.cache import hash_file
from dermgen.data.origins import License
from dermgen.publish import cards, gates
from dermgen.publish.described import Described, describe
from dermgen.publish.evidence import Evidence, gather
from dermgen.publish.hiding import patient_ids
from dermgen.publish.privacy import without_paths
from dermgen.publish.publication import Publication, begin, own_license, write_picture
from dermgen.results.common import label
from dermgen.settings.publish import PublishModelConfig

NOTICES = {
    True: "Whatever this model draws is synthetic: no photograph of a patient, and no evidence of how a disease looks.",
    False: "This classifier was made to study training sets, not to find cancer.",
}
SHOWN = 16


def publish_model(config: PublishModelConfig) -> str | None:
    """Send a run to the Hub; its address, None after a dry run.

    Raises:
        InputError: if the run has not finished, a gate is shut, or the Hub refuses.
    """
    described = describe(config.run, config.weights)
    evidence = gather(config.evidence or [], model=described.sha256)
    for line in evidence.left_out:
        print(f"left out {line}")
    how = how_to_audit(described) if described.generates else None
    licenses = (config.data_license, config.base_license, own_license(config, None))
    stops = gates.of_model(described.trained_on, described.sent_base, evidence, how, *licenses)
    publication = begin(config, "model", stops)
    _put_files(publication, described)
    picture = _picture(publication.files, evidence)

    def card(stops: Sequence[gates.Stop]) -> str:
        return render_card(described, publication.target.repo_id, evidence, stops, config, picture)

    return publication.finish(stops, card, patient_ids([*described.trained_on.manifests, *evidence.real_folders]))


def how_to_audit(described: Described) -> str:
    """The commands that look for copies in what a run draws."""
    if described.record.settings.get("instance_data_dir"):
        return (
            "`dermgen prepare` on those photographs and train on the manifest, since an audit needs held-out ones to "
            "compare with"
        )
    real = described.record.settings.get("data_dir") or "MANIFEST"
    if described.record.settings.get("data_dir_b"):
        real += f" (and again with {described.record.settings['data_dir_b']})"
    return (
        f"dermgen generate --model {described.folder} … --output_dir drawn, then dermgen audit --real {real} "
        "--synthetic drawn --output_dir audit, and give --evidence audit"
    )


def render_card(
    described: Described,
    repo_id: str,
    evidence: Evidence | None = None,
    stops: Sequence[gates.Stop] = (),
    config: PublishModelConfig | None = None,
    picture: str | None = None,
) -> str:
    """The card of a run; without the rest, what is known at the end of its training.

    Args:
        described: the run.
        repo_id: its name on the Hub, or that of its folder.
        evidence: results about its images.
        stops: what stopped the publication, had it not been forced.
        config: of the publication.
        picture: file of samples.
    """
    evidence = evidence or Evidence()
    said, base_license = (config.data_license, config.base_license) if config else (None, None)
    license = gates.required_license(described.trained_on, described.sent_base, said, base_license)
    license = own_license(config, license) if config else license
    title = repo_id.split("/")[-1]
    facts = cards.shared_facts(described.trained_on, license, evidence, stops, config)
    facts |= {
        "repo_id": repo_id,
        "title": title,
        "picture": picture,
        "notice": NOTICES[described.generates],
        "it": "this model",
        "data_title": "Training data",
        "published": None,
        "copies_left_out": 0,
        "model": described.model,
        "training": described.training(),
        "provenance": described.origin(),
        "cost": described.cost(),
        "limits": described.limits(),
    }
    metadata = _metadata(described, evidence, license)
    facts["card_data"] = ModelCardData(model_name=title, **metadata).to_yaml()
    return cards.render(f"{described.template}.md", facts, "model", config and config.card_template)


def _put_files(publication: Publication, described: Described) -> None:
    """The weights as they are; configs without paths of this machine; and how it was trained."""
    for name, source in described.files.items():
        paths = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
        for path in paths:
            target = name if path == source else f"{name}/{path.relative_to(source).as_posix()}"
            if path.name in ("config.json", "model_index.json", "preprocessor_config.json", "scheduler_config.json"):
                (publication.files / target).parent.mkdir(parents=True, exist_ok=True)
                write_json(publication.files / target, without_paths(json.loads(path.read_text())))
            else:
                publication.keep(path, target)
    settings = without_paths(
        {name: v for name, v in described.record.settings.items() if name not in ("output_dir", "logging_dir")}
    )
    (publication.files / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    provenance = json.loads((described.folder / "provenance.json").read_text())
    write_json(publication.files / "provenance.json", without_paths(provenance))
    publication.mark(described.sha256, model=described.template)


def _picture(files: Path, evidence: Evidence) -> str | None:
    """Some of the audited images, those that are no copies; None without an audit."""
    if evidence.audit is None:
        return None
    folder = evidence.audit_folder
    table = manifest.read(folder)
    shown = set(evidence.audit.images.sha256) - evidence.copied
    table = table[[hash_file(folder / name) in shown for name in table["file_name"]]]
    return write_picture(table.assign(path=[str(folder / name) for name in table["file_name"]]), files, SHOWN, 256)


def _metadata(described: Described, evidence: Evidence, license: License | None) -> dict[str, Any]:
    """The card's metadata by the Hub's names."""
    metadata = {name: value for name, value in described.metadata.items() if value is not None}
    metadata["tags"] = sorted({*metadata["tags"], "dermatology", "medical", "dermgen"})
    if license:
        metadata["license"] = license.id
        if license.id == "other":
            metadata["license_name"] = cards.slug(license.name)
    if described.generates:
        results = cards.eval_results(metadata["pipeline_tag"], evidence)
    else:
        source = " and ".join(described.record.test_sources) or "unnamed"
        results = [
            EvalResult(
                task_type="image-classification",
                dataset_type=cards.slug(source),
                dataset_name=f"{source}, held-out lesions",
                dataset_split="test",
                metric_type=name,
                metric_name=label(name),
                metric_value=round(score.value, 6),
            )
            for name, score in described.model["intervals"].scores.items()
            if score.value is not None
        ]
    return metadata | ({"eval_results": results} if results else {})
