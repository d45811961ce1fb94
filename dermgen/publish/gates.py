"""What stops a publication, and what to run then."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dermgen.config import InputError
from dermgen.data.origins import BASE_LICENSES, License, respects
from dermgen.data.set_facts import combined_license
from dermgen.data.trained_on import TrainedOn
from dermgen.publish.evidence import Evidence, copies_among
from dermgen.publish.privacy import Finding
from dermgen.results.audit import ENOUGH_HELD_OUT

TOKEN = "token"
MIN_AUDITED = 100  # images of a model; without a copy among them, under 4 % of its images are (Wilson, 95 %)


@dataclass(frozen=True)
class Stop:
    """A reason not to publish, and what to do; `public` is what a card may tell of it, without ids and paths."""

    gate: str
    reason: str
    remedy: str
    public: str | None = None

    def __str__(self) -> str:
        return f"{self.gate}: {self.reason}; {self.remedy}"

    def on_card(self) -> str:
        return f"{self.gate}: {self.public or self.reason}"


def of_model(
    trained_on: TrainedOn,
    base: str | None,
    evidence: Evidence,
    how: str | None,
    data_license: str | None = None,
    base_license: str | None = None,
    chosen: License | None = None,
) -> list[Stop]:
    """What stops a model, before its training as after it; only its files remain to be looked into.

    Args:
        trained_on: what it is trained on, or will be.
        base: name on the Hub of the base model, if its weights are published too.
        evidence: results about the images that it generates.
        how: the commands that make an audit; None for a model that generates no images.
        data_license: of images whose manifest does not record theirs.
        base_license: of the base model, where it is not well known.
        chosen: the licence to publish under, if it is not to be the required one.
    """
    stops = memorization(evidence, how, trained_on.sha256) if how else []
    license = required_license(trained_on, base, data_license, base_license)
    if license is None and combined_license(trained_on.all_data, data_license):
        stops.append(_unknown_base(base))
    else:
        stops += licenses(license, chosen)
    return [*stops, *split(trained_on.leaky or evidence.leaky)]


def required_license(
    trained_on: TrainedOn, base: str | None, data_license: str | None, base_license: str | None
) -> License | None:
    """What the images, and the base model if its weights are published, ask for; None where one is unknown.

    Arguments as of `of_model`.
    """
    of_base = [base_license or BASE_LICENSES.get(base, "")] if base else []
    return combined_license(trained_on.all_data, data_license, of_base)


def memorization(
    evidence: Evidence, how: str, trained_on: Collection[str] | None, hashes: Collection[str] | None = None
) -> list[Stop]:
    """No audit, one that did not see every image or compare with all training images, or one with too many copies.

    Args:
        evidence: with the audit, if there is one.
        how: the commands that make one.
        trained_on: SHA-256 of the real images that the model was trained on; None if they were not recorded.
        hashes: SHA-256 of the images that are published; None where a model is.
    """
    gate, audit = "memorisation", evidence.audit
    if audit is None:
        return [Stop(gate, "nobody has looked for copies of training images", f"run {how}")]
    unseen = set(hashes or ()) - set(audit.images.sha256)
    if unseen:
        reason = f"{len(unseen)} of the {len(hashes)} images are not those that were audited (new, or changed since)"
        return [Stop(gate, reason, f"run {how}")]
    if trained_on is None:
        reason = "it is not recorded what the model was trained on: the audit may have compared with other photographs"
        return [Stop(gate, reason, "generate them again from a run of dermgen, with dermgen generate")]
    missed = set(trained_on) - evidence.compared
    if missed:
        reason = f"the audit did not compare with {len(missed)} of the {len(set(trained_on))} real training images"
        return [Stop(gate, reason, f"audit again, with --real being the training data: {how}")]
    copies, n = copies_among(evidence, hashes)
    least = min(each.n for each in evidence.audits)
    if hashes is None and least < MIN_AUDITED:
        reason = f"only {least} images of this model were looked at, which says little"
        return [Stop(gate, reason, f"audit {MIN_AUDITED} or more: {how}")]
    if evidence.unknown_sources:
        unknown = len(evidence.unknown_sources)
        reason = f"images were drawn over {unknown} photographs that the audit does not know"
        return [Stop(gate, reason, "audit again, with --real being the manifest that holds those photographs")]
    if copies > audit.max_copy_rate * n:
        reason = f"{copies} of {n} images copy a training image, more than the audit's {audit.max_copy_rate:.1%}"
        remedy = "train for fewer steps or on more images"
        if audit.cannot_tell:
            reason = f"the audit cannot tell whether {copies} of {n} images are copies, or near a real one by chance"
            remedy = f"audit against a manifest that holds out {ENOUGH_HELD_OUT} or more images"
        if hashes is not None:
            remedy = f"leave these images out with --without_copies, or {remedy}"
        return [Stop(gate, reason, remedy)]
    return []


def split(leaky: bool) -> list[Stop]:
    """Data that was split by image."""
    if not leaky:
        return []
    reason = "LEAKY, the data was split by image, so that lesions of the training are in the test"
    return [Stop("split", reason, "prepare it without --allow_leaky_split and train again")]


def licenses(license: License | None, chosen: License | None) -> list[Stop]:
    """A licence of the data that nobody knows, or a chosen one that gives away more than the data's allows."""
    gate = "licence"
    if license is None:
        reason = "that of the training images is unknown"
        return [Stop(gate, reason, 'say it with --data_license, e.g. --data_license "CC BY-NC 4.0"')]
    if chosen is not None and not respects(chosen, license):
        reason = f"{chosen.name} gives away more than that of the data, {license.name}, allows"
        return [Stop(gate, reason, "leave --license out to take the data's")]
    return []


def _unknown_base(base: str) -> Stop:
    reason = f"that of the base model {base}, whose weights are sent, is unknown"
    return Stop("licence", reason, "say it with --base_license, e.g. --base_license apache-2.0")


def privacy(findings: Sequence[Finding]) -> list[Stop]:
    """What must not leave."""
    stops = []
    tokens = [f.file for f in findings if f.kind == TOKEN]
    if tokens:
        stops.append(
            Stop(TOKEN, f"a token of the Hub is in {', '.join(tokens)}", "take it out, and revoke it on the Hub")
        )
    others = [f for f in findings if f.kind != TOKEN]
    if others:
        first = ", ".join(map(str, others[:5])) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        remedy = "take it out of the source (`dermgen prepare` drops EXIF; rename images, correct captions)"
        kinds = ", ".join(f"{kind} in {n} files" for kind, n in Counter(f.kind for f in others).items())
        stops.append(Stop("privacy", first, remedy, kinds))
    return stops


def pass_or_stop(stops: Sequence[Stop], force: str | None, what: str, flag: str = "--force") -> None:
    """Raise unless nothing stops the publication, or a reason to override the stops was given; a token is never sent.

    Args:
        stops: what stops it.
        force: the reason.
        what: is published.
        flag: that gives the reason.

    Raises:
        InputError: with every stop on a line.
    """
    for stop in stops:
        if stop.gate == TOKEN:
            raise InputError(f"{what} is not published, nor can it be forced: {stop.reason}; {stop.remedy}")
    if stops and not force:
        lines = "".join(f"\n  - {stop}" for stop in stops)
        raise InputError(
            f"{what} is not published:{lines}\n  {flag} REASON publishes it anyway; the card prints the reason"
        )
