"""What series and files are called, in many places and languages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_addm.io.contrast import (
    AGENT_TAGS,
    agent_in_words,
    contrast_of_name,
    contrast_of_series,
    is_brain_t1,
    is_other_scan,
)

# Separated by "|"; of hospitals, scanners, public data sets and their guides.
NAMES = {
    "with": r"""
t1_vibe_tra_dyn_KM |
T1 C+ | T1 +C | +C T1 | AX T1 +C | AX T1+C | AX T1 C+ | Ax T1 FSE +C | T1 GD | T1 GADO |
T1 gadolinium | T1 Gadovist | T1 Dotarem | T1 MPRAGE magnevist | T1 Clariscan |
T1 ProHance | T1 post | T1 postcontrast | T1 post-Gd | T1 POST GAD | T1 con contraste |
T1 contraste | T1 mit Kontrast | T1 mit KM | T1 KM | t1_mprage_sag_KM | T1 MDC |
T1 dopo MDC | t1_mdc | T1C | t1ce | T1 CE | T1 inj | T1 injecté | T1 enhanced | T1 c/c |
T1 avec gado | T1 apres injection | T1 nach KM | t1_tse_tra+gd | T1wPost |
patient07_T1POST | TCGA-DU-7294_t1c_bet | BraTS_00001_t1gd | case-t1c | SAG T1 MPRAGE POST |
T1 W/CONTRAST | T1 w/ gad | T1 WITH CONTRAST | T1 +GD FS | MPRAGE+C | mprage_gd | AXT1POST |
SagT1GD | 3D T1 CE | T1 SPGR+C | T1 post contrast w/o FS | T1 POST FS NO ANGLE | T1 增强 |
T1增强扫描 | 造影T1 | T1 조영증강 | T1 с контрастом | T1 after contrast | T1 met contrast |
T1 med kontrast | T1 com contraste | T1_Gd-DTPA | T1 post Gd DTPA | T1 POST CON | T1 W CON |
t1postgd | T1wCE | t1w_contrast | T1 C | T1-C | T1 n.KM | T1 m. KM | T1 Gd+ |
T1 3D TFE Gd SENSE | T1 FSPGR IR POST | T1 CMDC | DCE T1 | T1 +cont | post T1 |
T1 BRAVO +C | T1_SPACE_postGad | AX T1 POST OP +C | T1 VIBE contrast-enhanced |
T1 Omniscan | T1 GBCA | T1 PostGado | T1_MPRAGE_POST_CONTRAST | Ax T1 FS C+ |
t1_fl2d_tra_GAD | T1 tra +KM | T1 fs sag KM | T1 Spin Echo post | T1 avec injection |
T1 iv contrast | T1 C(+) | T1 (C+) | T1[C+] | T1 c/Gd | T1 c/ contraste | T1w Gd enhanced |
T1 POSTGAD | T1 pós-contraste | T1 con contrasto | T1 after Gd | MPRAGE_CE | MPRAGE_C |
T1 KM+ | T1 i.v. KM | T1wGd | T1 ax. n. KM | T1_post2 | t1c2 | T1 gd_2 | T1 Gd1 |
T1 w. contrast | SAG T1 POST 3 | T1 Contrasted | T1 POST-CONTRAST 3D | Gad T1 | T1 FSE+Gd |
gd_t1 | Post-gad MPRAGE | T1W_POSTGD_3D | POST T1 SAG | T1_TSE_TRA_POST_KM |
T1 Kontrastmittel | T1 MultiHance | T1 PRIMOVIST | T1-POST | ax_t1_post_contrast |
T1_AX_CONTRAST | WITH_CONTRAST_T1 | t1-weighted post-gadolinium | T1 nach Kontrast |
T1 post inj | t1_gado | AX 3D T1 POST STEREO | T1 GADOTERATE | FSPGR +C |
T1 强化 | T1 強化 | T1 増強 | 造影後T1 | T1WI（Gd） | T1 조영후 | T1 조영제 | T1 +КВ | T1 с КУ |
T1 с гадолинием |
T1 после введения КВ | T1 з контрастом | T1 με σκιαγραφικό | T1 ΜΕ ΣΚΙΑΓΡΑΦΙΚΟ |
T1 עם חומר ניגוד |
T1 אחרי גד | T1 بعد الحقن | T1 بالصبغة | T1 مع التباين | T1 ฉีดสี | T1 หลังฉีดสารทึบรังสี |
T1 có tiêm thuốc |
T1 sau tiêm | T1 dengan kontras | T1 po kontraście | T1 po k.l. | T1 po KS | T1 s kontrastem |
T1 s k.l. |
T1 kontrasztos | T1 tehosteaine | T1 m/k | T1 +K | T1 con cte | T1 INYECTADO | T1 POS GD |
T1 POSGD | T1 IVKM |
T1 + CM | T1 IV+ | T1 C plus | T1 plus c | T1 w/c | T1 W C | T1 ENHC | T1 PSTC | T1POSTAX |
AXT1FSPOST | T1SEGD | T1 CONTRAST PRE OP | T1 +C pre op STEALTH | T1FSGD | T1MPRAGEPOST | T1 cgado |
T1 after perfusion | T1 post w/o fat sat
""",
    "without": r"""
T1 nat |
AX T1 W/O CONTRAST | AX T1 without contrast | T1 wo | T1 w/o | T1 WO CONTRAST |
T1 non-contrast | T1 noncontrast | T1 NON CONTRAST | T1 no contrast | T1 no gad | T1 pre |
T1 PRE CONTRAST | T1 precontrast | T1 pre-Gd | T1 PRE GAD | T1 ohne KM | T1 oKM | T1 o. KM |
T1 sin contraste | T1 sans inj | T1 sans injection | T1 non injecté | T1 senza mdc |
T1 s. mdc | T1 nativ | T1 native | T1 unenhanced | T1 plain | T1 s/c | T1 C- | T1 C- AX |
T1 -C | t1_pre | T1Pre | t1_mprage_nativ | PRE AX T1 | W/O AX T1 | T1 before contrast |
T1 sem contraste | T1 zonder contrast | T1 bez kontrastu | T1 平扫 | T1 单纯 |
T1 без контраста | T1 nonenhanced | T1 non enhanced | case_t1n | T1 noncon | T1 non con |
T1 pre con | T1 precon | T1 contrast none | T1 contrast: no | T1 Gd- | T1 KM- tra |
T1 without gadolinium contrast agent | T1 sans produit de contraste | T1 avant injection |
T1 antes de contraste | T1 prima mdc | T1 w/o gd | T1WO | t1_wo_contrast | T1 vor KM |
T1 S/ CONTRASTE | T1 造影前 | nonGd T1 | T1 GD PRE | T1 contrast free | T1 w\o contrast |
T1 W-O CONTRAST | t1_noGd | T1 NC | T1 SE C- | without gad T1 | T1 PRE-GAD | T1 pregad |
T1 SANS GADO | T1 w.o. contrast | T1 kein KM | T1 keine KM | T1 (C-) | T1 s/Gd |
T1 not enhanced | T1 pré-contraste | T1 senza contrasto | MPRAGE_PRE | without_contrast T1 |
T1_WITHOUT_GD | T1 CONTRASTE SIN | AX T1 PRE 3D | PRECONTRAST T1 AX | T1 NATIVE SAG |
T1 nativo | T1 non-enhanced | T1 no GD | T1 pre GADOLINIUM | NON-CONTRAST T1 BRAIN |
T1 wo/contrast | T1 W/O GAD FS | T1 without IV contrast | T1 w/out contrast |
T1 noncontrast 3D | T1 WITHOUT | T1 - without contrast | T1_pre_contrast | T1 ohne |
T1 ohne Kontrastmittel | T1 unenh |
T1 非增强 | T1 无增强 | T1 未增强 | 非造影 T1 | T1 造影剤なし | T1 조영제 없이 | T1 비조영 |
조영 전 T1 | T1 без КУ |
T1 нативный | T1 без внутривенного контраста | T1 до введения контраста | T1 χωρίς σκιαγραφικό |
T1 ללא חומר ניגוד | T1 לפני GD | T1 بدون صبغة | T1 قبل الحقن | T1 ไม่ฉีดสี | T1 ก่อนฉีด |
T1 không tiêm |
T1 chưa tiêm | T1 tanpa kontras | T1 kontrastsız | T1 kontrast öncesi |
T1 przed podaniem kontrastu |
T1 před kontrastem | T1 bez k.l. | T1 kontraszt nélkül | T1 fără contrast | T1 ilman tehostetta |
T1 natiivi |
T1 før kontrast | T1 u/ kontrast | T1 prima del mdc | T1 NATIF | T1 sin cte | T1 IV- | T1 no CM |
T1 CM- |
T1 minus contrast | T1 C minus | T1 NCE | T1 WOC | T1 preC | T1 contrast: without
""",
    "unknown": r"""
Sag T1 MPRAGE | t1_mprage_sag_p2_iso | AX T1 | T1 | 3D T1 TFE | T1 FSE | BRAVO | T1 w/o FS |
T1 without fat sat | T1 pre op | T1 preop | T1 post op | T1 postop | T1 post surgery |
SAG T1 C SPINE | T1 NON FS | T1 brain injury | T1 posterior fossa | T1 post fossa |
MPRAGE 1mm iso | scan | IM_0001 | T1 SE 3 sec | Dr Gadsby T1 | Acontrasti | T1 continuous |
T1 SINC | T1 W | T1 centre | T1 concat | Kmart | T1 FLAIR | T1 no angle | T1 POST-OP |
T1 PREOP STEALTH | T1 FS | T1 ISO NAV | T1 PRE-OP NAV | t1_post_treatment | T1 POST RT |
T1 после операции | T1 术后 | T1 après chirurgie | T1 after ECT | T1 FOV 24 cm | T1 5cm slab |
T1SENSE | T1FS |
T1SAG3D | T1 with FS | T1 dixon W | T1 mit FS | T1 s FS | T1 SC | T1 ไมเกรน
""",
    "unclear": r"""
T1 +/- C | T1 W & W/O | T1 W/WO CONTRAST | T1 pre and post contrast | T1 pre/post |
AX T1 + | COR T1 DYN | T1 -KM | T1 with and without contrast | T1 w wo gad |
T1 w/o & w/ contrast | T1 SUB | T1 PRE POST GD | T1 with | AX T1 W/
""",
}
BRAIN_T1 = r"""
Sag T1 MPRAGE | t1_mprage | AX T1 +C | MP-RAGE | mp rage | BRAVO | 3D FSPGR | IR-FSPGR |
T1 FLAIR | MP2RAGE_UNI | AXT1POST | T1W | T1wPost | 3D_TFE | tfl3d1_ns | T1_3D_TFE | SagT1 |
T1 SE TRA | T1 BRAIN | T1 HEAD | T1-weighted | T1 cerveau | T1 cervello |
Т1 сагиттальный
"""
NO_BRAIN_T1 = r"""
T1 map | T1_MAP | T1rho | T1 rho | T1 knee | AX T1 SPINE | SAG T1 C SPINE | T1 mapping |
MOLLI T1 | T2 FLAIR | FLAIR | T2 TFE | TOF SPGR | T1 localizer | mp2rage_INV1 |
mp2rage_T1_Images | DWI | SWI | T1 Knie | T1 HWS | T1 LUMBAR | T1 SUB | T1 LWS sag |
T1map_MOLLI | T1 sella | T1 pelvis | GENOU T1 | T1 CERVICAL | T12 | T1 頚椎 | 腰椎 T1 | T1 膝 |
경추 T1 | T1 шейный отдел |
T1 kręgosłup | T1 joelho | T1 Hüfte | T1 spalla
"""


def split(names: str) -> list[str]:
    return [name.strip() for name in names.split("|")]


@pytest.mark.parametrize(
    ("name", "agent"), [(name, agent) for agent, names in NAMES.items() for name in split(names)]
)
def test_words_about_contrast_agent(name: str, agent: str) -> None:
    assert agent_in_words(name) == agent
    assert agent_in_words(name.lower()) == agent_in_words(name.upper())


@pytest.mark.parametrize(
    ("name", "agent"),
    [
        ("patient07_T1POST", "with"),
        ("sub-01_ce-gadolinium_T1w", "with"),
        ("sub-01_ses-1_ce-GD_run-2_T1w", "with"),
        ("sub-01_ce-none_T1w", "without"),
        ("sub-01_T1w", "unknown"),
        ("CM01_T1w", "unknown"),
        ("KS_T1", "unknown"),
        # entities of the person and the visit
        ("sub-con01_T1w", "unknown"),
        ("sub-post3_ses-post_T1w", "unknown"),
        ("sub-01_ses-pre_T1w", "unknown"),
    ],
)
def test_file_names(name: str, agent: str) -> None:
    assert contrast_of_name(name).agent == agent


def test_names_of_t1_weighted_brains() -> None:
    assert [name for name in split(BRAIN_T1) if not is_brain_t1(name)] == []
    assert [name for name in split(NO_BRAIN_T1) if is_brain_t1(name)] == []
    assert [name for name in split(BRAIN_T1) if is_other_scan(name)] == []
    assert [name for name in split(NO_BRAIN_T1) if not is_other_scan(name)] == ["T12"]
    assert not is_other_scan("scan 3")
    assert is_brain_t1("T1 sag", "HEAD")
    assert is_brain_t1("T1 sag", "HEADNECK")
    assert not is_brain_t1("T1 sag", "KNEE")
    assert not is_brain_t1("T1 sag", "CSPINE")


@pytest.mark.parametrize(
    ("description", "protocol", "tags", "verdict"),
    [
        ("AX T1", "", {"ContrastBolusAgent": "DOTAREM"}, "with (ContrastBolusAgent is filled in)"),
        ("AX T1", "", {"ContrastBolusAgent": "10ml Gadavist"}, "with (ContrastBolusAgent is fi"),
        ("AX T1", "", {"ContrastBolusAgent": "YES"}, "with"),
        ("AX T1", "", {"ContrastBolusVolume": "7.5"}, "with (ContrastBolusVolume is filled in)"),
        ("AX T1", "", {"ContrastBolusAgentSequence": "<Sequence>"}, "with"),
        ("AX T1", "", {"ContrastBolusAgent": ""}, "without (ContrastBolusAgent is empty)"),
        ("AX T1", "", {"ContrastBolusAgent": "NONE"}, "without (ContrastBolusAgent says so)"),
        ("AX T1", "", {"ContrastBolusAgent": "NO CONTRAST"}, "without"),
        ("AX T1", "", {"ContrastBolusAgent": "N/A"}, "without"),
        ("AX T1", "", {"ContrastBolusAgent": "0"}, "without"),
        ("AX T1", "", {"ContrastBolusAgent": "なし"}, "without"),
        ("AX T1", "", {"ContrastBolusAgent": "0 ml"}, "without"),
        ("AX T1", "", {"ContrastBolusAgent": "ProHance pre-filled"}, "with"),
        ("AX T1", "", {"ContrastBolusAgent": "MultiHance, no reaction"}, "with"),
        ("AX T1", "", {"ContrastBolusAgent": "", "ContrastBolusVolume": "0.0"}, "without"),
        ("AX T1", "", {"ContrastBolusAgent": "ANONYMIZED"}, "unknown"),
        ("AX T1", "", {}, "unknown (neither tags nor description say)"),
        ("AX T1 C+", "", {"ContrastBolusAgent": ""}, "with (by SeriesDescription)"),
        ("AX T1 C+", "", {"ContrastBolusAgent": "NONE"}, "unclear (ContrastBolusAgent and Ser"),
        ("AX T1 PRE", "", {"ContrastBolusAgent": "DOTAREM"}, "unclear"),
        ("AX T1", "", {"ContrastBolusAgent": "NONE", "ContrastBolusVolume": "9"}, "unclear"),
        ("AX T1", "t1_km", {}, "with (by ProtocolName)"),
        ("AX T1", "BRAIN W/WO CONTRAST", {}, "unknown"),
        ("AX T1 +C", "BRAIN W/WO CONTRAST", {}, "with"),
        ("AX T1 PRE", "BRAIN WITH CONTRAST", {}, "without"),
    ],
)
def test_tags(description: str, protocol: str, tags: dict[str, str], verdict: str) -> None:
    values = {tag: {value} for tag, value in tags.items()}
    assert str(contrast_of_series(description, protocol, values)).startswith(verdict)


@pytest.mark.parametrize(
    ("words", "codec"),
    [
        *(("造影", codec) for codec in ("shift_jis", "iso2022_jp", "utf-8")),
        *(("增强", "gbk"), ("조영", "euc_kr"), ("增強", "big5"), ("с контрастом", "cp1251")),
    ],
)
def test_a_character_set_that_is_not_named(words: str, codec: str) -> None:
    garbled = f"T1 {words}".encode(codec).decode("latin-1")
    assert contrast_of_series(garbled, "", {}).is_suspect
    assert not contrast_of_series("T1 für Schädel, côté gauche, øst", "", {}).is_suspect


@given(st.text(), st.text(), st.dictionaries(st.sampled_from(AGENT_TAGS), st.sets(st.text())))
def test_any_text_gives_a_verdict_without_that_text(
    description: str, protocol: str, tags: dict[str, set[str]]
) -> None:
    is_brain_t1(description, protocol)
    reason = contrast_of_series(f"Doe^Jane {description}", protocol, tags).reason
    assert "Doe" not in reason
