"""Where images come from: licences and what they allow, public collections and how they are cited."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

PHANTOMS = "dermgen phantoms"
PERMISSIVE = frozenset("apache-2.0 mit bsd-3-clause odc-by pddl cdla-permissive-2.0 cdla-permissive-1.0".split())
OPENRAIL = frozenset("creativeml-openrail-m openrail openrail++".split())  # commercial, but not for every use
# Of models that others are fine-tuned from; --base_license says that of any other.
BASE_LICENSES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "runwayml/stable-diffusion-v1-5": "creativeml-openrail-m",
    "CompVis/stable-diffusion-v1-4": "creativeml-openrail-m",
    "stabilityai/stable-diffusion-2-1": "openrail++",
    "stabilityai/stable-diffusion-2-1-base": "openrail++",
    "google/vit-base-patch16-224-in21k": "apache-2.0",
    "google/vit-base-patch16-224": "apache-2.0",
    "microsoft/resnet-50": "apache-2.0",
}


@dataclass(frozen=True)
class License:
    """A licence of images, by the Hub's identifier; "other" is one whose terms are not known here."""

    id: str
    name: str
    commercial: bool = False
    derivatives: bool = False
    share_alike: bool = False
    attribution: bool = True

    @property
    def allows_sharing(self) -> bool:
        """Whether prepared images, which are derivatives, may be passed on."""
        return self.derivatives

    @property
    def url(self) -> str:
        """Of the deed; "" where there is none."""
        if self.id.startswith("cc0"):
            return "https://creativecommons.org/publicdomain/zero/1.0/"
        if not self.id.startswith("cc-"):
            return ""
        kind, version = self.id.removeprefix("cc-").rsplit("-", 1)
        return f"https://creativecommons.org/licenses/{kind}/{version}/"


def is_generated(source: str) -> bool:
    """Whether a manifest's `source` is that of images which dermgen has drawn, whatever its version."""
    return re.match(r"dermgen \d", source) is not None


def parse_license(text: str) -> License | None:
    """The licence that a text names, however spelt: `CC BY-NC 4.0`, `cc-by-nc`, `CC0`; None for an empty one."""
    words = re.sub(r"[\s_/]+", "-", text.strip().lower())
    if not words:
        return None
    if re.fullmatch(r"cc-?0(-1\.0)?", words):
        return License("cc0-1.0", "CC0 1.0", commercial=True, derivatives=True, attribution=False)
    found = re.fullmatch(r"cc-?by(-nc)?(-sa|-nd)?(?:-(\d\.\d))?", words)
    if found:
        non_commercial, other, version = found[1] or "", found[2] or "", found[3] or "4.0"
        return License(
            f"cc-by{non_commercial}{other}-{version}",
            f"CC BY{non_commercial.upper()}{other.upper()} {version}",
            commercial=not non_commercial,
            derivatives=other != "-nd",
            share_alike=other == "-sa",
        )
    if words in OPENRAIL:
        return License(words, text.strip(), commercial=True, derivatives=True)
    if words in PERMISSIVE:
        return License(words, text.strip(), commercial=True, derivatives=True)
    return License("other", text.strip())


def combine(texts: Iterable[str]) -> License | None:
    """The licence of what was made from images under all of these; None where one is unknown, or there is none.

    It asks what each of them asks: one non-commercial part makes the whole non-commercial.
    """
    parts = [parse_license(text) for text in texts]
    known = [part for part in parts if part]
    if not known or len(known) < len(parts):
        return None
    unknown = [part for part in known if part.id == "other"]
    if unknown:
        return unknown[0]
    if len({part.id for part in known}) == 1:
        return known[0]
    use_bound = [part for part in known if part.id in OPENRAIL]
    if use_bound:
        names = sorted({part.name for part in use_bound})
        rest = combine([part.name for part in known if part.id not in OPENRAIL])
        if rest and rest.id not in PERMISSIVE and rest.id != "cc0-1.0":
            names.insert(0, rest.name)
        return use_bound[0] if len(names) == 1 else License("other", " and ".join(names))
    if all(part.id in PERMISSIVE or part.id == "cc0-1.0" for part in known):
        return next(part for part in known if part.id != "cc0-1.0")
    conditions = "-nc" * (not all(part.commercial for part in known))
    conditions += "-nd" if not all(p.derivatives for p in known) else "-sa" * any(p.share_alike for p in known)
    version = max(part.id.rsplit("-", 1)[1] for part in known if part.id.startswith("cc-by"))
    return parse_license(f"cc-by{conditions}-{version}")


def respects(chosen: License, source: License) -> bool:
    """Whether what was made from images under `source` may be given away under `chosen`."""
    if chosen.id == source.id and (chosen.id != "other" or chosen.name == source.name):
        return True
    if "other" in (chosen.id, source.id) or source.id in OPENRAIL or not source.derivatives:
        return False
    if source.share_alike:
        return chosen.share_alike and chosen.commercial == source.commercial
    return (source.commercial or not chosen.commercial) and (chosen.attribution or not source.attribution)


@dataclass(frozen=True)
class Collection:
    """A public collection of photographs: where it is and how it is cited."""

    name: str
    url: str
    bibtex: str


_HAM10000_BIBTEX = """@article{tschandl2018ham10000,
  title = {The {HAM10000} dataset, a large collection of multi-source dermatoscopic images of common pigmented skin
           lesions},
  author = {Tschandl, Philipp and Rosendahl, Cliff and Kittler, Harald},
  journal = {Scientific Data}, volume = {5}, pages = {180161}, year = {2018}, doi = {10.1038/sdata.2018.161}
}"""
_ISIC2018_BIBTEX = """@article{codella2019isic2018,
  title = {Skin Lesion Analysis Toward Melanoma Detection 2018: A Challenge Hosted by the International Skin Imaging
           Collaboration ({ISIC})},
  author = {Codella, Noel and Rotemberg, Veronica and Tschandl, Philipp and Celebi, M. Emre and Dusza, Stephen and
            Gutman, David and Helba, Brian and Kalloo, Aadi and Liopyris, Konstantinos and Marchetti, Michael and
            Kittler, Harald and Halpern, Allan},
  journal = {arXiv:1902.03368}, year = {2019}
}"""
_BCN20000_BIBTEX = """@article{combalia2019bcn20000,
  title = {{BCN20000}: Dermoscopic Lesions in the Wild},
  author = {Combalia, Marc and Codella, Noel C. F. and Rotemberg, Veronica and Helba, Brian and
            Vilaplana, Veronica and Reiter, Ofer and Carrera, Cristina and Barreiro, Alicia and
            Halpern, Allan C. and Puig, Susana and Malvehy, Josep},
  journal = {arXiv:1908.02288}, year = {2019}
}"""
_ISIC2020_BIBTEX = """@article{rotemberg2021isic2020,
  title = {A patient-centric dataset of images and metadata for identifying melanomas using clinical context},
  author = {Rotemberg, Veronica and Kurtansky, Nicholas and Betz-Stablein, Brigid and others},
  journal = {Scientific Data}, volume = {8}, pages = {34}, year = {2021}, doi = {10.1038/s41597-021-00815-z}
}"""

# Keyed by the manifest's `source`. Their ids of images and lesions are public and tell nothing of a patient.
COLLECTIONS = {
    c.name: c
    for c in (
        Collection("HAM10000", "https://doi.org/10.7910/DVN/DBW86T", _HAM10000_BIBTEX),
        Collection(
            "ISIC 2018", "https://challenge.isic-archive.com/data/#2018", f"{_HAM10000_BIBTEX}\n{_ISIC2018_BIBTEX}"
        ),
        Collection(
            "ISIC 2019", "https://challenge.isic-archive.com/data/#2019", f"{_HAM10000_BIBTEX}\n{_BCN20000_BIBTEX}"
        ),
        Collection("ISIC 2020", "https://challenge.isic-archive.com/data/#2020", _ISIC2020_BIBTEX),
        Collection(PHANTOMS, "", ""),
    )
}
