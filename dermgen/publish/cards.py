"""Cards: facts about a model or a data set, filled into the templates of `model_cards/`.

A template is Jinja in which an undefined name is an error; what was not measured is None, and the template says so.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jinja2
from huggingface_hub import DatasetCard, EvalResult, ModelCard

from dermgen import __version__, shipped
from dermgen.blocks import counted, for_card, number, percent
from dermgen.config import InputError
from dermgen.data.origins import COLLECTIONS, License, Origin, origin, parse_license
from dermgen.data.set_facts import SetFacts
from dermgen.data.trained_on import TrainedOn
from dermgen.labels import TAXONOMIES
from dermgen.publish.evidence import Evidence, copies_among
from dermgen.publish.gates import Stop
from dermgen.publish.privacy import without_paths_in
from dermgen.results.audit import PASSED, Audit, Rate
from dermgen.results.common import label
from dermgen.results.evaluation import Evaluation
from dermgen.settings.publish import PublishConfig
from dermgen.statistics import wilson


def render(
    template: str, facts: Mapping[str, Any], kind: Literal["model", "dataset"], own: str | Path | None = None
) -> str:
    """The card's text.

    Args:
        template: a name in `model_cards/`.
        facts: values that the template may use, by name.
        kind: of repository, which decides what metadata is valid.
        own: path of a user's template to use instead.

    Raises:
        InputError: for a template that is missing or wrong, or uses an unknown name.
    """
    templates = shipped.folder("model_cards")
    path = templates / template if own is None else Path(own)
    if not path.is_file():
        raise InputError(f"no such card template: {path}")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, templates]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "num": number,
        "share": percent,
        "counted": counted,
        "blocks": for_card,
        "label": label,
        "python": _python,
    }
    try:
        text = environment.get_template(path.name).render(facts)
    except jinja2.UndefinedError as error:
        raise InputError(
            f"the card template {path} uses an unknown field: {error.message}; the fields are "
            f"{', '.join(sorted(facts))}"
        ) from error
    except jinja2.TemplateNotFound as error:
        raise InputError(f"no such card template: {error.name}") from error
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"the card template {path}, line {error.lineno}: {error.message}") from error
    try:
        card = (ModelCard if kind == "model" else DatasetCard)(text, ignore_metadata_errors=False)
    except ValueError as error:
        raise InputError(f"the card template {path} gives an invalid card: its metadata is wrong ({error})") from error
    if not card.data.to_dict():
        raise InputError(f"the card template {path} must open with ---, {{{{ card_data }}}} and ---")
    return text


def shared_facts(
    trained_on: TrainedOn,
    license: License | None,
    evidence: Evidence,
    stops: Sequence[Stop] = (),
    config: PublishConfig | None = None,
    published: Collection[str] | None = None,
) -> dict[str, Any]:
    """The fields of every card, for a model or a data set.

    Args:
        trained_on: what the model was trained on; the data of a set are also what binds its images otherwise.
        license: of what is published.
        evidence: results about it.
        stops: checks that failed.
        config: what the publisher says, of licences and of failed checks.
        published: SHA-256 of the images of a data set.
    """
    data, base_data = trained_on.data, trained_on.base_data
    force, data_license = (config.force, config.data_license) if config else (None, None)
    sources = sorted({source for entry in trained_on.all_data for source in entry.sources} - {""})
    bibtex = dict.fromkeys(b for s in sources if s in COLLECTIONS for b in [COLLECTIONS[s].bibtex] if b)
    return {
        "version": __version__,
        "data": [_data(d, data_license) for d in data if d.images != 0],
        "base_data": [_data(d, data_license) for d in base_data],
        "collections": [COLLECTIONS[s] for s in sources if s in COLLECTIONS and COLLECTIONS[s].url],
        "sources": sources,
        "citations": list(bibtex),
        "license": license,
        "consent": consent(trained_on.all_data),
        "forced": [stop.on_card() for stop in stops] if force else [],
        "force_reason": force,
        "scores": [_scores(scores, trained_on.sha256) for scores in evidence.scores],
        "memorization": _memorization(evidence, published),
        "studies": evidence.studies,
    }


def eval_results(task: str, evidence: Evidence) -> list[EvalResult]:
    """The scores of generated images for the card's `model-index`, by the real images that they were measured on."""
    results = []
    for scores in evidence.scores[:1]:
        name = " and ".join(scores.reference.sources) or "unnamed"
        splits = scores.reference.splits
        results += [
            EvalResult(
                task_type=task,
                dataset_type=slug(name),
                dataset_name=name,
                dataset_split="+".join(splits) if splits else None,
                metric_type=metric,
                metric_name=f"{label(metric)}, {without_paths_in(scores.extractor.name)} features",
                metric_value=round(score.value, 6),
            )
            for metric, score in scores.overall.scores.items()
            if score.value is not None
        ]
    return results


def consent(data: Sequence[SetFacts]) -> list[str]:
    """What is known about the patients' consent, a sentence for each kind of source."""
    sources = {source for entry in data for source in entry.sources}
    origins = {origin(source) for source in sources}
    public = sorted(source for source in sources if origin(source) is Origin.COLLECTION)
    sentences = []
    if public:
        sentences.append(
            f"The photographs of {' and '.join(public)} were published for research by those who took them; consent "
            "and ethics approval are described there and were not verified again."
        )
    if Origin.PHANTOM in origins:
        sentences.append("The phantoms were drawn by a program: no patient is in them.")
    if Origin.OTHER in origins or not sources:
        sentences.append(
            "Whether the patients in the other images consented to this use is not recorded with them; the publisher "
            "is responsible for it."
            if sentences
            else "Whether the patients consented to this use is not recorded with the images; the publisher is "
            "responsible for it."
        )
    return sentences


def slug(name: str) -> str:
    """A name as an identifier."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def class_names(codes: Sequence[str], taxonomy: str | None) -> list[tuple[str, str]]:
    """Codes with their meaning, "" if the taxonomy is unknown."""
    known = next((t for t in TAXONOMIES.values() if t.name == taxonomy), None)
    return [(code, lesion.name if known and (lesion := known.find(code)) else "") for code in codes]


def _data(entry: SetFacts, stated: str | None) -> dict[str, Any]:
    names = dict(class_names(list(entry.images_per_class), entry.taxonomy))
    licenses = [parse_license(text or stated or "") for text in entry.licenses]
    return {
        "images": entry.images,
        "lesions": entry.lesions,
        "synthetic": entry.synthetic,
        "classes": [(code, names[code], n) for code, n in entry.images_per_class.items()],
        "sources": [source for source in entry.sources if source],
        "licenses": [license for license in licenses if license],
        "preparation": entry.preparation,
        "audit": entry.audit,
        "split_warnings": entry.split.warnings(),
    }


def _memorization(evidence: Evidence, published: Collection[str] | None) -> Audit | None:
    """The audit's result for the published images or weights."""
    if evidence.audit is None:
        return None
    copies, n = copies_among(evidence, published)
    low, high = wilson(copies, n) if n else (0.0, 1.0)
    rate = Rate(n=n, copies=copies, copy_rate=copies / max(1, n), low=low, high=high)
    audit = evidence.audit
    if copies <= audit.max_copy_rate * n:  # without the copies that the audit found
        audit = replace(audit, verdict=PASSED, passed=True)
    # Ids of images are not published, and the classes are those of all audited images.
    return replace(audit, **vars(rate), per_class={}, exact_copies=[], train_images=len(evidence.compared))


def _scores(scores: Evaluation, trained_on: Collection[str] | None) -> dict[str, Any]:
    """A result without paths, and whether none of its real images was in the training set."""
    unseen = trained_on is not None and not set(scores.reference.sha256) & set(trained_on)
    extractor = replace(scores.extractor, name=without_paths_in(scores.extractor.name))
    return {
        "result": replace(scores, extractor=extractor),
        "held_out": scores.reference.splits == ["test"] and unseen,
        "subgroups": len(scores.groups) > 1,
    }


def _python(text: str) -> str:
    """A text as a Python literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)
