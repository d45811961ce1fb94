"""Lesion classes: the taxonomies of the public data sets, their codes, names and malignancy.

The only place that knows a class name. `malignant` follows the ISIC convention for the two-class task: melanoma, basal
cell carcinoma, squamous cell carcinoma and actinic keratosis / intraepithelial carcinoma (precancer or in situ).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from dermgen.config import InputError


@dataclass(frozen=True)
class LesionClass:
    """One diagnosis: its code in tables, its name in captions, whether it is malignant (None: unknown)."""

    code: str
    name: str
    malignant: bool | None
    synonyms: tuple[str, ...] = ()

    @property
    def malignancy(self) -> str:
        """In a word; "" if unknown."""
        return {True: "malignant", False: "benign", None: ""}[self.malignant]


@dataclass(frozen=True)
class Taxonomy:
    """A named, ordered set of lesion classes; the order is that of class indices."""

    name: str
    classes: tuple[LesionClass, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(c.code for c in self.classes)

    def find(self, label: str) -> LesionClass | None:
        """The class with this code, name or synonym, ignoring case; None if there is no such class."""
        wanted = label.strip().lower()
        for c in self.classes:
            if wanted in (c.code, c.name, *c.synonyms):
                return c
        return None

    def __getitem__(self, code: str) -> LesionClass:
        for c in self.classes:
            if c.code == code:
                return c
        raise InputError(f"unknown class {code!r}: {self.name} has {', '.join(self.codes)}")


MEL = LesionClass("mel", "melanoma", True, ("malignant melanoma",))
NV = LesionClass("nv", "melanocytic nevus", False, ("nevus", "mole"))
BCC = LesionClass("bcc", "basal cell carcinoma", True, ("basalioma",))
AKIEC = LesionClass("akiec", "actinic keratosis", True, ("intraepithelial carcinoma", "bowen's disease"))
AK = LesionClass("ak", "actinic keratosis", True, ("solar keratosis",))
BKL = LesionClass("bkl", "benign keratosis", False, ("seborrheic keratosis", "solar lentigo"))
DF = LesionClass("df", "dermatofibroma", False, ("fibrous histiocytoma",))
VASC = LesionClass("vasc", "vascular lesion", False, ("angioma", "hemangioma"))
SCC = LesionClass("scc", "squamous cell carcinoma", True, ())

HAM10000 = Taxonomy("HAM10000", (AKIEC, BCC, BKL, DF, MEL, NV, VASC))
ISIC2019 = Taxonomy("ISIC 2019", (MEL, NV, BCC, AK, BKL, DF, VASC, SCC))
BINARY = Taxonomy(
    "benign/malignant",
    (LesionClass("benign", "benign skin lesion", False), LesionClass("malignant", "malignant skin lesion", True)),
)
TAXONOMIES = {"ham10000": HAM10000, "isic2019": ISIC2019, "binary": BINARY}


def from_labels(labels: Iterable[str]) -> Taxonomy:
    """The first known taxonomy that has all `labels`, else a custom one of the labels themselves."""
    labels = sorted({label.strip().lower() for label in labels} - {""})
    for taxonomy in TAXONOMIES.values():
        if all(taxonomy.find(label) for label in labels):
            return taxonomy
    return Taxonomy("custom", tuple(LesionClass(label, label.replace("_", " "), None) for label in labels))
