"""What a scan's words and tags say: a T1 of the brain or not, with contrast agent or without.

Descriptions are free text in many languages, and a scanner's operator may leave tags as they were.
Where they contradict each other the verdict is "unclear", and a person has to choose.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from napari_addm.io.remarks import alarm

Agent = Literal["without", "with", "unclear", "unknown"]

AGENT_TAGS = (
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
    "ContrastBolusIngredient",
    "ContrastBolusStartTime",
    "ContrastBolusTotalDose",
    "ContrastBolusVolume",
)
"""DICOM keywords that say whether a contrast agent was given."""

# Signs, and words of other scripts, that stand for words. "_" is a space by then.
SIGNS = (
    (r"\b[тτ](?=[12])", "t"),
    (r"造影剤?|[增増][强強]|[强強]化|조영제?|ฉีด(?:สี)?|สาร(?:ทึบรังสี|เพิม)", " contrast "),
    (r"(?:חומר )?ניגוד|\bגד\b|גדולי\w*|\w*(?:حقن|صبغ|تباين)\w*|σκιαγρ\w*", " contrast "),
    (r"контраст\w*|гадол\w*|усилен\w*|підсилен\w*|\bк[ув]\b", " contrast "),
    (r"平[扫掃]|[単单單][純纯]|натив\w*", " plain "),
    (r"非|无|無(?!し)|未|비(?= contrast)|не(?= contrast)", " without "),
    (r"\b(?:без|до|χωρι[σς]|πριν|ללא|בלי|לפני|بدون|قبل)\b|(?:ไม|กอน)(?= contrast)", " without "),
    (r"[な無]し|없이|없음|(?<=contrast )\s*[前전]", " none "),
    (r"\bs k(?:\.\s?[lms]|ontrast[eo]m)\b|\bc ?plus\b|\bplus c\b", " contrast "),
    (r"\bk\.\s?[lms]\b|\bm\.\s?d\.\s?c\b", " km "),
    (r"\bkontrasts[ıi]z\b", " without contrast "),
    (r"(?<![a-z\d])\d+\s?cm\b", " "),
    (r"\+\s*/\s*-|±", " maybe "),
    (r"\bw(?:ith)?\s*(?:[/&+,]|and)?\s*w(?:/\s*o|o|ithout)\b", " maybe "),
    (r"\bw(?:/\s*o|o|ithout)\b\s*(?:[/&+,]|and)?\s*w(?:ith\b|\s*/)", " maybe "),
    (r"\bw\s*[/\\.-]\s*o(?:ut)?(?=\b|[a-z])|\bwo\b", " without "),
    (r"\bw\s*/", " with "),
    (r"\bs\s*/\s*c\b", " without contrast "),
    (r"\bc\s*/\s*c\b|\bm\s*/\s*k\b|(?<![a-z])(?:c|iv)\s?\+|\+\s*[ck](?![a-z])", " contrast "),
    (r"(?<![a-z])(?:c|iv)-(?![a-z0-9])|\s-c\b", " without contrast "),
    (r"\b(?:gd|gad\w*|[ck]m|mdc|[ck]ontras\w*)-(?=\s|$)", " without contrast "),
    (r"\s-(?=(?:gd|gad\w*|[ck]m|mdc|[ck]ontras\w*)\b)", " maybe "),
    (r"(?:(?<=\s)|(?<=t1))\+\s*$", " maybe "),
)
# Longer words come first where one begins as another does.
AGENT = (
    r"p?gd(?:dtpa|bopta|dota|do3a)?|gad|gado\w*|gadav\w*|gbca|dtpa|dota|dotarem|clariscan|magnevist|"
    r"(?:pro|multi)?hance|omniscan|primovist|eovist|elucirem|vueway|optimark|magnegita|dotagraf|cyclolux|"
    r"feraheme|ferumoxytol|[ck]ontras\w*|[ck]ontr|cont|cte|(?:iv)?km|kmg|cm|ks|mdc|cmdc|civ|inj|"
    r"in[jy]e[ck]\w*|enh\w*|dose|tehoste\w*|varjoaine\w*|tiem|thuoc"
)
SHORT_AGENT = r"ce|cet1w?|dce|bolus"
NOT = (
    r"without|wo|un|non|no|not|keine?|pre|prae|ohne|sans|sin|senza|sem|zonder|uden|utan|uten|bez|before|avant|"
    r"antes|prima|vor|voor|s|o|u|fore|før|inden|innan|przed|pred|fara|ilman|ennen|tanpa|khong|chua|truoc|minus"
)
# What "without" alone says, at the end or before the name of a sequence.
ALONE = {"pre", "prae", "without", "wo", "ohne", "sans", "senza", "sin", "sem"}
PLAIN = r"nati{1,2}[vf]\w*|nat|plain|nce?|woc|blanco"
POST = r"po?st|pos|apres|dopo|nach|after"
# "pre" and "post" of something else than an agent.
EVENTS = re.compile(
    r"op|ops|oper\w*|surg\w*|treat\w*|therap\w*|tx|rx|rt|radi\w*|chemo\w*|fossa|trauma\w*|resect\w*|"
    r"biops\w*|ictal|mortem|partum|natal|proc\w*|hoc|stim\w*|implant\w*|covid|stroke|dbs|shunt|"
    r"filled|ect|r?tms|ketamin\w*|chir\w*|interv\w*"
)
# Such scans mostly have agent; a clearer word decides instead.
HINTS = {"dyn", "dynamic", "delayed", "sub", "subtraction"}
FILLERS = re.compile(
    r"of|the|any|iv|i|v|de|du|di|d|del(?:la|lo)?|do|da|der|produit|mezzo|medio|medium|media|agents?|"
    r"use|введ\w*|внутрив\w*|podan\w*"
)
# A negation that follows its word, as in "contrast: none".
AFTER = {"none", "nein", "nil", "free", "pre", "minus", "oncesi", "nelkul"}
AFTER_AT_END = AFTER | {"no", "non", "sin", "0", "off", "false", "without", "ohne"}
SEQUENCES = r"mp2?rage|bravo|f?spgr|tfe|tfl|tfl3d|vibe"
GLUED_T1 = re.compile(
    rf"(?:ax|axial|sag|cor|tra|[23]d)?(t1(?=wo)|t1w?(?:{SEQUENCES})?|{SEQUENCES})(\w*)"
)
GLUED = re.compile(rf"({NOT}|with|w|mit|con|avec|c|m|n|{POST})({AGENT}|con|(?<=pre)c|(?<=st)c)")
AFTER_T1 = re.compile(
    rf"(?:fs|t?se)?(?:({NOT}|{POST}|m|n)?({AGENT}|{SHORT_AGENT}|{POST}|{PLAIN}|c|n)\d*|({NOT}))?"
    r"(?:fs|ax|sag|cor|tra|3d)?"
)
STRUCTURE = re.compile(
    rf"t1\w*|{SEQUENCES}|ax\w*|sag\w*|cor\w*|tra\w*|[23]d|se|tse|fse|gre|iso|brain|head|\d+\w*"
)
IS_T1 = re.compile(rf"t1w?|{SEQUENCES}")
IS_AGENT = re.compile(rf"(?:{AGENT}|{SHORT_AGENT})\d*")
IS_NOT, IS_PLAIN, IS_POST = re.compile(NOT), re.compile(PLAIN), re.compile(rf"(?:{POST})\d*")

NO_T1 = re.compile(
    r"\bt1 ?(?:rho|r|map\w*|relax\w*|images)\b|\bmaps?\b|mapping|molli|\binv ?[12]\b|\bloc\b|"
    r"locali[sz]er|scout|survey|\bsub\b|subtract\w*|\bmip\b"
)
T1 = re.compile(r"(?<![a-z0-9])(?:ax|axial|sag|cor|tra|[23]d)?t1(?!\d)")
T1_SEQUENCE = re.compile(rf"\bir ?fspgr\b|(?<![a-z])(?:{SEQUENCES})(?![a-z])|mp ?2?rage")
OTHER_WEIGHTING = re.compile(
    r"\b(?:t2\w*|pdw?|tof|mra|mrv|swi|dwi|dti|adc|asl|flair|stir|perf\w*|bold)\b"
)
BRAIN = re.compile(
    r"\b(?:brain|head|cereb\w*|skull|scha?edel|schadel|kopf|tete|crane|cran\w*|cabeza|cerv(?:eau|ello))"
)
BODY = re.compile(
    r"\b(?:[ctl]?spine|spinal|cerv\w*|lumb\w*|thora\w*|dorsal|sacr\w*|neck|chest|breast|lung|heart|card\w*|"
    r"abd\w*|liver|pelv\w*|prosta\w*|kidney|renal|hip|knee|thigh|femur|leg|calf|ankle|foot|shoulder|"
    r"elbow|wrist|hand|finger|arm|tmj|orbit\w*|pituit\w*|sell\w*|iacs?|hypoph\w*|hws|bws|lws|wirbel\w*|"
    r"knie\w*|schulter\w*|genou\w*|rachis|lomb\w*|epaule|rodilla|columna|hombro|ginocchio|rachide|"
    r"colonna|ipofisi|col[ou]\w*na|joelho|ombro|cadera|hanche|cheville|poignet|foie|huft\w*|becken|hals|"
    r"mamm?a|leber|fegato|spalla|nek|heup|koleno?|kolan\w*|kregos[lł]\w*|pater\w*|omuz|позв\w*|ше[ий]н\w*|"
    r"поясн\w*|колен\w*|parotid\w*|larynx|plexus)\b|[颈頚頸腰胸]椎|膝|垂体|乳|肝|경추|요추|무릎"
)
# Parts of BIDS names that speak of the person or the visit, not of the scan.
ENTITIES = re.compile(r"(?:(?<=_)|^)(?:sub|ses|run|dir|echo|part|task|space|chunk)-[^_]*")

# Character sets that scanners use without saying so, as if it were Latin.
CODECS = ("utf-8", "gb18030", "shift_jis", "iso2022_jp", "euc_kr", "big5", "cp1251", "cp1253")

NOTHING = re.compile(
    r"|none(?: given)?|no(?: agent)?|non|nil|null|n|na|n a|not \w+|nothing|false|0 ?ml|keine?s?|"
    r"nein|aucune?|nessuno|niente|nada|geen|ingen|brak|zadna|nincs|yok|нет|没有|לא"
)
HIDDEN = re.compile(
    r"unknown|unspecified|undefined|other|anon\w*|removed|redacted|de ?identif\w*|x+"
)
OTHER_SCAN = alarm(
    "The series is named as another scan than a T1-weighted one of the brain: choose that one."
)
ZERO_TAGS = ("ContrastBolusStartTime", "ContrastBolusTotalDose", "ContrastBolusVolume")


@dataclass(frozen=True)
class Contrast:
    """Whether a scan was made with contrast agent, and how that is known.

    Attributes
    ----------
    agent : {"without", "with", "unclear", "unknown"}
        "unclear" where the scan's words and tags contradict each other, "unknown" where they
        say nothing.
    reason : str
        Words of ours; no text of a header.
    """

    agent: Agent
    reason: str

    @property
    def is_suspect(self) -> bool:
        """Whether the scan was, or may have been, made with contrast agent."""
        return self.agent in ("with", "unclear")

    def __str__(self) -> str:
        return f"{self.agent} ({self.reason})"


def contrast_of_name(name: str) -> Contrast:
    """Judge a scan by its file's name, such as ``patient07_T1POST`` or ``sub-1_ce-gd_T1w``."""
    agent = agent_in_words(ENTITIES.sub("", name))
    if agent == "unknown":
        return Contrast(agent, "its name does not say")
    return Contrast(agent, "by its name")


def contrast_of_series(
    description: str, protocol: str, tags: Mapping[str, Collection[str]]
) -> Contrast:
    """Judge a DICOM series.

    Parameters
    ----------
    description, protocol : str
        SeriesDescription and ProtocolName.
    tags : mapping of str to collection of str
        The values of those `AGENT_TAGS` that the images have; more than one where images differ.
    """
    words, what = _agent_in_header(description), "SeriesDescription"
    if words == "unknown":
        words, what = _agent_in_header(protocol), "ProtocolName"
        # The protocol of a whole study, "brain w/wo", does not tell its series apart.
        words = "unknown" if words == "unclear" else words
    said = {name: {_tag_says(name, value) for value in values} for name, values in tags.items()}
    given = next((name for name, verdicts in said.items() if "with" in verdicts), "")
    denied = "without" in said.get("ContrastBolusAgent", ())
    if given and (denied or words in ("without", "unclear")):
        other = "ContrastBolusAgent" if denied else what
        return Contrast("unclear", f"{given} and {other} contradict each other")
    if given:
        return Contrast("with", f"{given} is filled in")
    if denied and words in ("with", "unclear"):
        return Contrast("unclear", f"ContrastBolusAgent and {what} contradict each other")
    if denied:
        return Contrast("without", "ContrastBolusAgent says so")
    if words != "unknown":
        return Contrast(words, f"by {what}")
    if said.get("ContrastBolusAgent") == {"empty"}:
        return Contrast("without", "ContrastBolusAgent is empty")
    return Contrast("unknown", "neither tags nor description say")


def _agent_in_header(text: str) -> Agent:
    """What a text says, also where the header does not name its character set."""
    agent = agent_in_words(text)
    if agent != "unknown" or (text.isascii() and "\x1b" not in text):
        return agent
    for codec in CODECS:
        with suppress(UnicodeError):  # most readings are wrong, so that they prove no absence
            agent = agent_in_words(text.encode("latin-1").decode(codec))
            if agent in ("with", "unclear"):
                return agent
    return "unknown"


def _tag_says(name: str, value: str) -> Literal["with", "without", "empty", "unknown"]:
    words = " ".join(_split(_letters(value)))
    if not words:
        return "empty"
    if name in ZERO_TAGS or words.replace(" ", "").isdigit():
        return "with" if re.search(r"[1-9]", words) else "empty"
    if HIDDEN.fullmatch(words):
        return "unknown"
    if NOTHING.fullmatch(" ".join(_words(value))) or agent_in_words(value) == "without":
        return "without"
    return "with"


def is_brain_t1(description: str, body_part: str = "") -> bool:
    """Return whether words are those of a T1-weighted scan of the brain, with agent or without.

    Maps of T1, localizers, subtractions, and scans of other parts of the body are not.

    Parameters
    ----------
    description : str
        SeriesDescription or ProtocolName.
    body_part : str
        BodyPartExamined.
    """
    words = " ".join(_words(description))
    weighted = T1.search(words) or T1_SEQUENCE.search(words)
    return bool(weighted) and not is_other_scan(description, body_part)


def is_other_scan(description: str, body_part: str = "") -> bool:
    """Return whether words are those of something else than a T1-weighted scan of the brain.

    See `is_brain_t1`; words that name neither give False in both.
    """
    words, part = " ".join(_words(description)), " ".join(_split(_letters(body_part)))
    weighted = OTHER_WEIGHTING.search(words) and not T1.search(words)
    elsewhere = any(BODY.search(each) and not BRAIN.search(each) for each in (words, part))
    return bool(weighted or NO_T1.search(words) or elsewhere)


def agent_in_words(text: str) -> Agent:
    """Return what a description says about contrast agent, in the usual languages of scanners."""
    said = set(_said(list(_words(text))))
    clear = said - {"unclear"} or said
    if len(clear) > 1:
        return "unclear"
    return clear.pop() if clear else "unknown"


def _said(words: list[str]) -> Iterator[Agent]:
    """Yield each verdict on contrast agent that the words give, in their order."""
    negation = ""  # waits for what it denies
    denied = False  # whether it found it
    for n, word in enumerate(words):
        following, last = (words[n + 1] if n + 1 < len(words) else ""), n + 2 >= len(words)
        if word == "maybe":
            yield from ("with", "without")
        elif word in HINTS or (word == "with" and not following):
            yield "unclear"
        elif IS_PLAIN.fullmatch(word):
            yield "without"
        elif _is_agent(words, n, negation):
            planned = EVENTS.fullmatch("".join(words[n + 2 : n + 3]))  # "contrast pre op"
            after = following in (AFTER_AT_END if last else AFTER) and not planned
            yield "without" if negation or after else "with"
            denied = True
            continue
        elif IS_POST.fullmatch(word) and not EVENTS.fullmatch(following):
            yield "with"
        elif negation and FILLERS.fullmatch(word):
            continue
        if negation in ALONE and not denied and (negation == "pre" or STRUCTURE.fullmatch(word)):
            yield "without"
        is_negation = IS_NOT.fullmatch(word) and not EVENTS.fullmatch(following)
        # "contrast pre": it has denied the word before it
        follows = n > 0 and _is_agent(words, n - 1, "") and word in AFTER_AT_END
        negation, denied = (word if is_negation and not follows else ""), False
    if negation in ALONE and not denied:
        yield "without"


def _is_agent(words: list[str], n: int, negation: str) -> bool:
    """Whether a word names contrast agent; some do only beside certain others."""
    if n == 0 and words[0][:2] in ("cm", "ks"):  # a name may begin with a person's initials
        return False
    before, following = words[n - 1] if n else "", words[n + 1 : n + 2]
    if words[n] == "con":
        return bool(negation) or before in ("with", "w") or bool(IS_POST.fullmatch(before))
    if words[n] == "c":  # "T1 C" is one with agent, "T1 C spine" a neck
        elsewhere = BODY.match("".join(following)) or following == ["sp"]
        beside = before in ("with", "w") or IS_T1.fullmatch(before)
        return bool(negation) or (bool(beside) and not elsewhere)
    return bool(IS_AGENT.fullmatch(words[n]))


def _letters(text: str) -> str:
    """A text in lower case, without accents, ``mpRage`` as ``mp rage``."""
    letters = unicodedata.normalize("NFKD", text.replace("_", " "))
    letters = "".join(c for c in letters if not unicodedata.combining(c))
    letters = unicodedata.normalize("NFKC", letters)  # Hangul stays whole
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", letters).lower()


def _split(letters: str) -> list[str]:
    return re.findall(r"[^\W_]+", letters)


def _words(text: str) -> Iterator[str]:
    """Words of a description, with signs as words and ``t1postgd`` as three."""
    letters = re.sub(r"\bmp[\s-]?(2?)rage", r"mp\1rage", _letters(text))
    for sign, words in SIGNS:
        letters = re.sub(sign, words, letters)
    for word in _split(letters):
        if glued := GLUED_T1.fullmatch(word):
            sequence, rest = glued.groups()
            if pieces := AFTER_T1.fullmatch(rest):
                rest = ("nativ" if piece == "n" else piece for piece in pieces.groups() if piece)
                yield from (sequence, *rest)
                continue
        if glued := GLUED.fullmatch(word):
            yield from glued.groups()
        else:
            yield word
