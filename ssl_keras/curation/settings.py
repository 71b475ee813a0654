"""Settings of a curation, which its result is a function of."""

import dataclasses
from typing import Annotated, Literal

from ssl_keras.curation.rules import ImageRules, SoundRules, TextRules
from ssl_keras.data.ranges import Range, check_fields

PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Thresholds and choices that decide what is kept."""

    rules: tuple[Literal["gopher", "fineweb", "markup", "off"], ...] = ("gopher", "markup")
    """Families of rules for texts. off turns off all rules, also those for images and audio."""
    language: str = ""
    """Language of the texts to keep, as an ISO 639-1 code such as en, recognized in the first 1,000 characters. Empty
    keeps all."""
    near: Annotated[float, Range(0, 1)] = 0.8
    """Minimum fraction of five-word sequences that near copies of a document have in common (Jaccard similarity,
    estimated). 0 keeps near copies of documents, short texts and images."""
    near_text: Annotated[float, Range(0, 100, open="low")] = 90.0
    """Minimum edit similarity of near copies among texts of fewer than 60 words, in percent."""
    near_image: Annotated[float, Range(0, 1, open="low")] = 0.95
    """Minimum correlation between the thumbnails of near copies among images."""
    near_detail: Annotated[float, Range(0, 1, open="low")] | None = None
    """Minimum correlation between the details of near copies among images. None takes 0.7, or more where different
    images are framed alike."""
    keep: Literal["longest", "first"] = "longest"
    """The copy to keep: the longest text, the image with the most pixels or the longest clip; or the first one."""
    parts: tuple[float, ...] = (0.8, 0.1, 0.1)
    """Fractions of the training, validation and test splits. Near copies of each other are in one split."""
    text: TextRules = TextRules()
    image: ImageRules = ImageRules()
    sound: SoundRules = SoundRules()

    def check(self):
        """Raises ValueError if a value is out of range, or the settings contradict each other."""
        for each in (self, self.text, self.image, self.sound):
            check_fields(each)
        if not 1 <= len(self.parts) <= len(PARTS) or min(self.parts) <= 0 or abs(sum(self.parts) - 1) > 1e-6:
            raise ValueError(
                f"--parts must be 1 to 3 positive fractions that sum to 1, such as 0.8 0.1 0.1. Received: {self.parts}"
            )
        if "off" in self.rules and len(self.rules) > 1:
            raise ValueError(f"--rules must be off, or families of rules. Received: {' '.join(self.rules)}")
        if self.language:
            known = languages()
            if self.language not in known:
                raise ValueError(f"Unknown language {self.language!r}. Expected an ISO 639-1 code: {', '.join(known)}.")

    def families(self):
        """Returns the families of rules that are on; empty for off."""
        return () if "off" in self.rules else self.rules


def languages():
    """Returns the codes that py3langid recognizes, sorted. Raises ValueError if it is not installed."""
    from ssl_keras.curation.measure import recognizer

    return sorted(recognizer().labels)
