"""The table of languages against the sets, the identifier and the encoder whose codes it holds."""

import re
from collections import Counter
from importlib.resources import files

import pytest

from midalign.data.registry import DATA_SETS
from midalign.languages import Language, language, languages, role_of, same_language
from midalign.metrics import identify

ROWS = list(languages().values())
RTL = {"Adlm", "Arab", "Hebr", "Nkoo", "Syrc", "Thaa"}

# FLORES-200: flores200/README.md of github.com/facebookresearch/flores.
FLORES = """
ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn amh_Ethi apc_Arab arb_Arab arb_Latn
ars_Arab ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn
bel_Cyrl bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn
ces_Latn cjk_Latn ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn
epo_Latn est_Latn eus_Latn ewe_Latn fao_Latn fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gla_Latn
gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn hye_Armn
ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab
kas_Deva kat_Geor knc_Arab knc_Latn kaz_Cyrl kbp_Latn kea_Latn khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn
kmr_Latn kon_Latn kor_Hang lao_Laoo lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn lua_Latn
lug_Latn luo_Latn lus_Latn lvs_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Arab min_Latn mkd_Cyrl plt_Latn
mlt_Latn mni_Beng khk_Cyrl mos_Latn mri_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva nso_Latn nus_Latn
nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pes_Arab pol_Latn por_Latn prs_Arab pbt_Arab
quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Olck scn_Latn shn_Mymr sin_Sinh slk_Latn slv_Latn
smo_Latn sna_Latn snd_Arab som_Latn sot_Latn spa_Latn als_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn
swh_Latn szl_Latn tam_Taml tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi taq_Latn taq_Tfng tpi_Latn
tsn_Latn tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn
vec_Latn vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zsm_Latn zul_Latn
"""

# Universal NER v1: treebanks with a free licence; Norwegian and GSDSIMP are left out.
UNER = """
ceb_gja da_ddt de_pud en_ewt en_pud hr_set pt_bosque pt_pud qaf_arabizi ru_pud sk_snk sr_set sv_pud
sv_talbanken tl_trg zh_gsd zh_pud
"""

# data/xSID-0.7 of github.com/mainlp/xsid.
XSID = "ar da de de-ba de-muc de-st en gsw id it ja kk lt nap nl no sr tr zh"

# XLM-R's 100 languages, without romanized ones, Zawgyi and the second Chinese: examples/xlmr/README.md of
# github.com/facebookresearch/fairseq, as ISO codes.
XLM_R = """
af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he hi hr hu hy id
is it ja jv ka kk km kn ko ku ky la lo lt lv mg mk ml mn mr ms my ne nl no om or pa pl ps pt ro ru sa sd si
sk sl so sq sr su sv sw ta te th tl tr ug uk ur uz vi xh yi zh
"""


def codes(column: str) -> Counter[str]:
    """The codes in a data set's column."""
    return Counter(code for row in ROWS for code in row.codes[column].split())


def published(data: str, pattern: str) -> set[str]:
    """What a pattern's group finds in the file names of a data set's digest table."""
    _, *lines = (files("midalign.data") / f"{data}_digests.tsv").read_text("utf-8").splitlines()
    found = (re.fullmatch(pattern, line.split("\t")[0]) for line in lines)
    return {match[1] for match in found if match}


def test_rows_are_sorted_and_names_tell_them_apart() -> None:
    order = [row.code for row in ROWS]
    assert order == sorted(set(order))
    assert all(re.fullmatch(r"[a-z]{2,3}(_[a-z]{2,4})?", code) for code in order)
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(re.fullmatch("[A-Z][a-z]{3}", row.script) and row.name and row.branch for row in ROWS)


def test_every_row_is_of_some_set_and_no_code_stands_twice() -> None:
    assert not [row.code for row in ROWS if not any(row.codes[column] for column in DATA_SETS)]
    for column in DATA_SETS:
        assert set(codes(column).values()) == {1}, column


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("massive", published("massive", r"(.+)/test\.tsv")),
        ("tatoeba", published("tatoeba", r"tatoeba\.(.+)-eng\.eng")),
        ("ntrex", published("ntrex", r"newstest2019-ref\.(.+)\.txt")),
        ("wmt23", published("wmt23", r".+\.(?:src|ref\.ref[AB])\.(.+)")),
        ("alma", published("alma", r"train\..+\.(.+)") - {"en"}),
        ("flores", set(FLORES.split())),
        ("uner", set(UNER.split())),
        ("xsid", set(XSID.split())),
    ],
)
def test_each_set_has_its_languages_and_no_other(column: str, expected: set[str]) -> None:
    assert set(codes(column)) == expected


def test_sizes_of_the_sets() -> None:
    sizes = {column: len(codes(column)) for column in DATA_SETS}
    assert sizes == {
        "massive": 52,
        "tatoeba": 112,
        "ntrex": 127,
        "flores": 204,
        "wmt23": 8,
        "uner": 17,
        "xsid": 19,
        "alma": 5,
        "mini": 10,
    }


def test_scripts() -> None:
    assert [row.code for row in ROWS if (row.direction == "rtl") != (row.script in RTL)] == []
    assert {row.direction for row in ROWS} == {"ltr", "rtl"}
    # ISO 15924 has Hang for Korean letters and Kore for Korean text; MASSIVE's rows have the latter.
    of_flores = {
        row.code: row.codes["flores"][4:].replace("Hang", "Kore") for row in ROWS if row.codes["flores"]
    }
    assert of_flores == {row.code: row.script for row in ROWS if row.codes["flores"]}


def test_the_identifier_knows_its_codes() -> None:
    assert {row.identifier for row in ROWS if row.identifier} <= identify.known()
    expected = {"nb": "no", "nn": "nn", "zh_tw": "zh", "tl": "tl", "pt_br": "pt", "kmr": "ku", "ckb": ""}
    assert {code: language(code).identifier for code in expected} == expected


def test_comet_is_where_xlm_r_was_pretrained() -> None:
    elsewhere = {"nb": "no", "nor": "no", "kmr": "ku", "prs": "fa"}
    pretrained = set(XLM_R.split())
    known = {row.code for row in ROWS if elsewhere.get(row.code, row.code.split("_")[0]) in pretrained}
    assert {row.code for row in ROWS if row.comet} == known - {"ar_latn", "de_ba", "de_muc", "de_st"}
    assert len(pretrained) == 93
    assert pretrained == {elsewhere.get(code, code.split("_")[0]) for code in known}


@pytest.mark.parametrize(
    ("code", "joshi", "resource"),
    [
        ("de", 5, "high"),
        ("eu", 4, "high"),
        ("ceb", 3, "mid"),
        ("yo", 2, "low"),
        ("bem", 0, "low"),
        ("luo", None, "low"),
    ],
)
def test_resource_classes(code: str, joshi: int | None, resource: str) -> None:
    row: Language = language(code)
    assert (row.joshi, row.resource) == (joshi, resource)


def test_classes_are_those_of_the_paper() -> None:
    assert {row.joshi for row in ROWS} == {None, 0, 1, 2, 3, 4, 5}


def test_roles_are_matched_by_language_and_decided_by_code_where_it_is_there() -> None:
    assert role_of("zh", ["en", "zh_cn"], []) == "supervised"
    assert role_of("zh_cn", [], ["zh"]) == "aligned"
    assert role_of("zh_tw", ["zh_cn"], ["zh_tw"]) == "aligned"
    assert role_of("pt_br", ["pt"], []) == "supervised"
    assert role_of("sr_cyrl", [], ["sr_latn"]) == "aligned"
    assert role_of("yue", ["zh", "zh_tw"], []) == "unseen"
    assert role_of("de_ba", ["de"], []) == "unseen"
    assert role_of("de_muc", ["de_ba"], []) == "supervised"


def test_codes_of_one_language_share_its_name() -> None:
    names: dict[str, set[str]] = {}
    for row in ROWS:
        names.setdefault(same_language(row.code), set()).add(row.name.partition(" (")[0])
    assert {code: found for code, found in names.items() if len(found) > 1} == {}
    assert len(names) < len(ROWS)
