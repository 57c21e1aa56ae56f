"""Cards of sets that were really built: every number in them is counted again in the builder's own rows."""

import re
import statistics
from collections import Counter
from pathlib import Path

import datasets
import pytest
import tiny
from card_text import plain_numbers, sections, tables
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard
from loopback_hub.cards import faults_of

import chest_xray_masks as cxm
from hub_models.dataset.audit import audit
from hub_models.dataset.audit_report import KINDS, PUBLISHED
from hub_models.hub.dataset_card import PROJECT_TAG, write_card
from hub_models.hub.dataset_export import ExportConfig, export
from hub_models.hub.parquet import write_parquet

REPO = "somebody/chest-xrays"
SECTIONS = ["Use", "Fields", "Splits", "Statistics", "What is odd in this copy", "Terms", "Origin", "Limits"]
LABELS = ["normal", "tuberculosis"]


class Set:
    """A set, its card, the audit of it, and the builder's rows as the card's facts are to be."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.source, self.folder, self.audit = source, folder, audit(source, progress=False)
        folder.mkdir()
        self.terms = write_card(folder, write_parquet(source, folder), self.audit, "chest-xrays", REPO)
        self.card = DatasetCard.load(folder / "README.md")
        self.rows = []
        for split, rows in datasets.load_dataset("chest_xray_masks", "all", data_dir=str(source)).items():
            for row in rows:
                names = {name: rows.features[name].int2str(row[name]) for name in ("site", "label")}
                sex = None if row["sex"] is None else rows.features["sex"].int2str(row["sex"])
                self.rows.append(row | names | {"sex": sex, "split": split})
        self.sites = [site for site in ("Montgomery", "Shenzhen") if self.of(site=site)]

    def of(self, **values: str) -> list[dict]:
        return [row for row in self.rows if all(row[name] == value for name, value in values.items())]


@pytest.fixture(scope="module")
def sets(phantoms: Path, tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Set]:
    """Sets by name: of phantoms, of patients (as their files do not say otherwise), of one site, with odd files."""
    root = tmp_path_factory.mktemp("sets")
    odd = tiny.kaggle(top="") | {"masks/MCUCXR_0777_0.png": tiny.mask_png("MCUCXR_0001_0")}
    again = tiny.image_png("MCUCXR_0001_0")  # tiny draws an image by its number, so three are alike
    odd |= {"CXR_png/MCUCXR_0888_1.png": again}
    sources = {
        "phantoms": phantoms,
        "patients": tiny_set,
        "mc": tiny.write_zip(tiny.nlm_montgomery(), root / "mc.zip"),
        "bare": tiny.write_tree(tiny.nlm_shenzhen(), root / "bare-files"),
        "odd": tiny.write_tree(odd, root / "odd-files"),
    }
    return {name: Set(source, root / name) for name, source in sources.items()}


NAMES = ["phantoms", "patients", "mc", "bare", "odd"]


@pytest.mark.parametrize("name", NAMES)
def test_card_is_whole(name: str, sets) -> None:
    one = sets[name]
    splits = sections(one.card)
    assert list(splits)[1:] == SECTIONS + ([] if name == "phantoms" else ["Citations"])
    assert all(len(text.split()) > 8 for text in splits.values())
    text = str(one.card)
    assert "{{" not in text and "{%" not in text and "\n\n\n" not in text
    assert str(one.source) not in text and str(one.folder) not in text
    assert not re.search(r"^\* .*\n\n\* ", one.card.text, re.M)  # lists in one piece
    shown = re.findall(r"!\[.+?\]\((.*?)\)", text)
    assert shown == ["overview.png"] + ["samples.png"] * (name == "phantoms")
    kept = {path.name for path in one.folder.iterdir() if path.is_file()}
    shown += ["eval.yaml"] * ("test" in {row["split"] for row in one.rows})
    assert kept == {"README.md", "croissant.json", *shown} | ({"LICENSE.md"} if name != "phantoms" else set())


@pytest.mark.parametrize("name", NAMES)
def test_head_is_what_viewers_and_the_hub_need(name: str, sets) -> None:
    one = sets[name]
    assert faults_of(str(one.card)) == []
    data = one.card.data
    assert data.language == "en" and data.task_categories == ["image-segmentation", "image-classification"]
    assert data.size_categories == ["n<1K"] and PROJECT_TAG in data.tags
    assert ("synthetic" in data.tags) == (name == "phantoms")
    if name == "phantoms":
        assert data.license == "apache-2.0" and data.pretty_name.startswith("Synthetic")
        assert not any(key.startswith("extra_gated") for key in data.to_dict())
    else:
        assert (data.license, data.license_name) == ("other", "nlm-request-and-cc-by-nc-sa-4.0")
        assert (one.folder / data.license_link).is_file()
        assert data.to_dict()["extra_gated_prompt"].strip() == one.terms
        stated = " ".join(data.to_dict()["extra_gated_fields"])
        assert ("Montgomery" in stated, "CC BY-NC-SA 4.0" in stated) == (name != "bare", name in ("patients", "odd"))
    infos, configs = DatasetInfosDict.from_dataset_card_data(data), MetadataConfigs.from_dataset_card_data(data)
    of_config = {"MC": "Montgomery", "Shenzhen": "Shenzhen"}
    present = [config for config, site in of_config.items() if site in one.sites]
    assert list(infos) == list(configs) == [*present, "all"] and configs.get_default_config_name() == "all"
    for config, info in infos.items():
        rows = one.rows if config == "all" else one.of(site=of_config[config])
        assert info.features == cxm.FEATURES
        counts = Counter(row["split"] for row in rows)
        assert {split: held.num_examples for split, held in info.splits.items()} == counts
        patterns = [pattern for names in configs[config]["data_files"] for pattern in names["path"]]
        files = [path for pattern in patterns for path in one.folder.glob(pattern)]
        assert sorted(files) == sorted(one.folder.glob("*/*.parquet" if config == "all" else f"{config}/*.parquet"))
        assert info.download_size == sum(path.stat().st_size for path in files)
        assert info.dataset_size == sum(held.num_bytes for held in info.splits.values())
        assert info.dataset_size > sum(len(tiny.png(tiny.pixels_of(row["id"]))) for row in rows) or name == "phantoms"


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_counted_in_the_rows(name: str, sets) -> None:
    one = sets[name]
    ((headings, rows),) = tables(sections(one.card)["Splits"])
    assert headings == ["site", "split", "X-rays", "patients", *LABELS, "with a mask"]
    sites = one.sites if len(one.sites) == 1 else [*one.sites, "all"]
    assert [row[:2] for row in rows] == [[site, split] for site in sites for split in (*cxm.SPLITS, "all")]
    for site, split, *counts in rows:
        held = one.of(**({} if site == "all" else {"site": site}), **({} if split == "all" else {"split": split}))
        labels = [sum(row["label"] == label for row in held) for label in LABELS]
        masks = sum(row["mask"] is not None for row in held)
        patients = len({row["patient_id"] for row in held})
        assert [int(count) for count in counts] == [len(held), patients, *labels, masks]


@pytest.mark.parametrize("name", NAMES)
def test_fields_are_the_features_and_their_nulls(name: str, sets) -> None:
    one = sets[name]
    ((_, rows),) = tables(sections(one.card)["Fields"])
    assert [row[0] for row in rows] == [f"`{name}`" for name in cxm.FEATURES]
    for field, kind, words, missing in rows:
        feature = cxm.FEATURES[field.strip("`")]
        assert kind.split()[0] in (type(feature).__name__, getattr(feature, "dtype", ""))
        assert not hasattr(feature, "names") or kind.endswith(f"({', '.join(feature.names)})")
        assert words and int(missing) == sum(row[field.strip("`")] is None for row in one.rows)


@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_counted_in_the_rows(name: str, sets) -> None:
    one = sets[name]
    groups = [(site, label, one.of(site=site, label=label)) for site in one.sites for label in LABELS]
    groups = [group for group in groups if group[2]]
    sex, *ages, images, said = tables(sections(one.card)["Statistics"])
    assert said[0] == ["the reading says", "RadLex", *one.sites]
    found = {site: [cxm.parse_findings(row["findings"]) for row in one.of(site=site)] for site in one.sites}
    names = [name.replace("_", " ") for name in cxm.FINDING_NAMES]
    assert [row[0] for row in said[1]] == [*names, *(f"activity {name}" for name in cxm.ACTIVITIES)]
    for name, (_, radlex, *cells) in zip(cxm.FINDING_NAMES, said[1], strict=False):
        assert radlex == (cxm.RADLEX[name] or "none")
        states = [[getattr(text, name) for text in found[site]] for site in one.sites]
        assert cells == [f"{state.count('present')} / {state.count('uncertain')}" for state in states]
    for activity, (_, _, *cells) in zip(cxm.ACTIVITIES, said[1][len(names) :], strict=True):
        assert [int(cell) for cell in cells] == [
            sum(text.activity == activity for text in found[site]) for site in found
        ]
    assert sex[0] == ["site", "label", "female", "male", "other", "not said"]
    assert len(sex[1]) == len(groups)
    for (site, label, *counts), (*group, held) in zip(sex[1], groups, strict=True):
        assert [site, label] == group
        assert [int(count) for count in counts] == [
            sum(row["sex"] == value for row in held) for value in (*sex[0][2:5], None)
        ]
    known = [
        (site, label, [row["age_years"] for row in held if row["age_years"] is not None])
        for site, label, held in groups
    ]
    known = [group for group in known if group[2]]
    for (site, label, count, *shown), (*group, values) in zip(ages[0][1] if ages else [], known, strict=True):
        quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        assert [site, label, int(count)] == [*group, len(values)]
        expected = [min(values), *quarters, max(values)]
        assert [float(value) for value in shown] == [pytest.approx(value, abs=0.0501) for value in expected]
    for (site, width, height, modes, size), wanted in zip(images[1], one.sites, strict=True):
        held = one.of(site=wanted)
        assert site == wanted
        for cell, side in ((width, 0), (height, 1)):
            values = [row["image"].size[side] for row in held]
            expected = [min(values), statistics.median(values), max(values)]
            assert [float(value) for value in cell.split(" / ")] == [
                pytest.approx(value, abs=0.501) for value in expected
            ]
        counts = Counter(row["image"].mode for row in held)
        assert modes == ", ".join(f"`{mode}` {counts[mode]}" for mode in sorted(counts))
        files = [path for path in one.source.rglob("CXR_png/*.png") if path.stem in {row["id"] for row in held}]
        if files:  # no zip
            assert float(size) == pytest.approx(sum(path.stat().st_size for path in files) / 1e6, abs=0.0501)


@pytest.mark.parametrize("name", NAMES)
def test_oddities_are_those_of_the_audit(name: str, sets) -> None:
    one = sets[name]
    found = tables(sections(one.card)["What is odd in this copy"])
    if name != "phantoms":
        headings, rows = found.pop(0)
        configs = [config for config, site in cxm.SITES.items() if site in one.sites]
        assert [row[0] for row in rows] == one.sites
        for (_, *cells), config in zip(rows, configs, strict=True):
            for heading, text in zip(headings[1:], cells, strict=True):
                assert text == f"{one.audit.counts[config][heading]} of {PUBLISHED[config][heading]}"
    ((_, rows),) = found
    kinds = [kind for kind in KINDS if one.audit.of_kind(kind) and kind not in ("X-ray missing", "site absent")]
    assert [row[0] for row in rows] == kinds
    for kind, verdict, count, *per_site, which in rows:
        named = {id for finding in one.audit.of_kind(kind) for id in finding.ids}
        prefixes = {"Montgomery": "MCUCXR", "Shenzhen": "CHNCXR"}
        assert [int(n) for n in per_site] == [sum(id.startswith(prefixes[site]) for id in named) for site in one.sites]
        held = one.audit.of_kind(kind)
        assert int(count) == len(held) and verdict == ("to look at" if KINDS[kind].is_off else "as it is")
        ids = [id for finding in held[:5] for id in finding.ids]
        assert re.findall(r"`(.*?)`", which) == ids
        assert which.endswith(f"and {len(held) - 5} more") == (len(held) > 5)


def test_odd_files_are_named(sets) -> None:
    words = sections(sets["odd"].card)["What is odd in this copy"]
    assert "| mask without image | to look at | 1 | 1 | 0 | `MCUCXR_0777_0` |" in words
    assert (
        "| same pixels | to look at | 1 | 2 | 1 | `CHNCXR_0001_0` and `MCUCXR_0001_0` and `MCUCXR_0888_1` |" in words
    )
    assert "| image without reading | to look at | 1 | 1 | 0 | `MCUCXR_0888_1` |" in words


@pytest.mark.parametrize("name", NAMES)
def test_every_number_in_the_words_is_counted(name: str, sets) -> None:
    one = sets[name]
    rows, text = one.rows, one.card.text
    masks = sum(row["mask"] is not None for row in rows)
    readings, patients = sum(row["reading"] is not None for row in rows), Counter(row["patient_id"] for row in rows)
    sites = ", ".join(f"{site} {len(one.of(site=site))}" for site in one.sites)
    first = (
        f"{len(rows)} frontal chest X-rays of {len(patients)} patients ({sites}), {masks} of them with a lung mask, "
    )
    kind = "a made-up" if name == "phantoms" else "a radiologist's"
    assert f"{first}{readings} with {kind} reading" in text
    modes = Counter(row["image"].mode for row in rows)
    assert ", ".join(f"{modes[mode]} are `{mode}`" for mode in sorted(modes)) in text
    shenzhen = sum(row["mask"] is not None for row in one.of(site="Shenzhen")) if name != "phantoms" else 0
    assert (f"The Shenzhen masks, {shenzhen} here, are CC BY-NC-SA 4.0" in text) == (shenzhen > 0)
    assert (f"{len(rows) - masks} X-rays have none" in text) == (masks < len(rows))
    assert (f"{len(rows)} of the {len(rows)} X-rays were drawn by a program" in text) == (name == "phantoms")
    linked = [
        [row["id"] for row in sorted(rows, key=lambda row: row["id"]) if row["patient_id"] == patient]
        for patient in sorted(patients)
        if patients[patient] > 1
    ]
    assert ("Here these belong together: " in text) == bool(linked)
    assert all(" and ".join(f"`{id}`" for id in ids) in text for ids in linked)
    counted = {len(rows), len(patients), masks, readings, shenzhen, len(rows) - masks, *modes.values()}
    counted |= {len(one.of(site=site)) for site in one.sites}
    # fractions of the splits, 16-bit images, ids named, licences, mask values, the number in the hospital's name
    rules = {"70", "10", "20", "16", "5", "4.0", "2.0", "0", "255", "3"}
    numbers = plain_numbers(text)
    assert numbers <= {str(number) for number in counted} | rules
    assert numbers >= {str(len(rows)), "70", "10", "20"}


@pytest.mark.parametrize("name", NAMES)
def test_terms_are_of_what_is_there(name: str, sets) -> None:
    one = sets[name]
    text = one.terms
    assert text == sections(one.card)["Terms"].strip()
    if name == "phantoms":
        assert "No pixel comes from a patient" in text and "NLM asks" not in text
        assert "Citations" not in one.card.text and "not a medical device" not in one.card.text
        return
    assert (one.folder / "LICENSE.md").read_text() == f"# Terms\n\n{text}\n"
    assert "NLM asks users to cite" in text and "CC0" in text
    assert ("not to share the set outside one's group" in text) == (name != "bare")
    assert ("CC BY-NC-SA 4.0" in text) == (name in ("patients", "odd"))
    citations = sections(one.card)["Citations"]
    for doi in ("10.3978/j.issn.2223-4292.2014.11.20", "10.1109/TMI.2013.2290491", "10.1109/TMI.2013.2284099"):
        assert doi in citations
    assert ("1803.01199" in citations) == (name in ("patients", "odd"))
    assert "ynthetic" not in str(one.card)


def test_some_phantoms_among_patients_are_told(tmp_path, phantoms) -> None:
    files = tiny.kaggle(top="")
    for id in ("MCUCXR_0001_0", "MCUCXR_0002_0"):
        files[f"CXR_png/{id}.png"] = next(phantoms.rglob(f"CXR_png/{id}.png")).read_bytes()
        del files[f"masks/{id}.png"]
    one = Set(tiny.write_tree(files, tmp_path / "files"), tmp_path / "set")
    assert "> **Holds synthetic X-rays.** 2 of the 6 X-rays were drawn by a program." in one.card.text
    assert "synthetic" in one.card.data.tags and one.card.data.license == "other" and "NLM asks" in one.terms
    assert not (one.folder / "samples.png").exists()  # a patient's may be among them
    assert not one.card.data.pretty_name.startswith("Synthetic")


@pytest.mark.parametrize("name", ["patients", "mc", "phantoms"])
def test_lines_of_use_run(name: str, sets, capsys) -> None:
    one = sets[name]
    (code,) = re.findall(r"```python\n(.*?)```", one.card.text, re.S)
    assert len(code.splitlines()) == 8 and code.count(REPO) == 2
    names: dict = {}
    exec(code.replace(REPO, str(one.folder)), names)
    assert names["row"]["id"] in capsys.readouterr().out
    assert names["image"].size and (names["mask"] is None or names["mask"].size == names["image"].size)


def test_lines_of_use_run_from_the_hub(sets, as_user, capsys) -> None:
    with as_user("somebody"):
        export(ExportConfig(data_dir=sets["mc"].source, repo_id=REPO))
        exec(re.findall(r"```python\n(.*?)```", sets["mc"].card.text, re.S)[0], {})
    assert "MCUCXR_0001_0" in capsys.readouterr().out


@pytest.mark.slow
def test_card_of_the_real_x_rays(real_data_dir, tmp_path) -> None:
    one = Set(real_data_dir, tmp_path / "set")
    for check in (
        test_splits_are_counted_in_the_rows,
        test_fields_are_the_features_and_their_nulls,
        test_statistics_are_counted_in_the_rows,
        test_oddities_are_those_of_the_audit,
        test_every_number_in_the_words_is_counted,
    ):
        check("real", {"real": one})
    assert "`MCUCXR_0162_1` and `MCUCXR_0166_1` and `MCUCXR_0170_1`" in one.card.text
    assert "| Montgomery | 87 of 138 |" in one.card.text and "| Shenzhen | 438 of 662 |" in one.card.text
