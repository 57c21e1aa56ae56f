import hashlib
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import tiny

import chest_xray_masks as cxm
from hub_models.dataset.phantoms import write_phantoms
from hub_models.hub.parquet import MAP_SIDE, ROWS_PER_GROUP, data_files, read_facts, write_parquet


def written(source: Path, folder: Path, **options: str) -> datasets.info.DatasetInfosDict:
    folder.mkdir(exist_ok=True)
    return write_parquet(source, folder, **options)


def digests(folder: Path) -> dict[str, str]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_files_hold_the_builders_rows_and_the_infos_say_so(tiny_set, tmp_path) -> None:
    infos = written(tiny_set, tmp_path / "out")
    assert list(infos) == ["MC", "Shenzhen", "all"]
    for config in ("MC", "Shenzhen"):
        expected = datasets.load_dataset("chest_xray_masks", config, data_dir=str(tiny_set))
        assert set(infos[config].splits) == set(expected)
        assert infos[config].features == cxm.FEATURES
        paths = sorted((tmp_path / "out" / config).iterdir())
        assert [path.name for path in paths] == [f"{split}-00000-of-00001.parquet" for split in sorted(cxm.SPLITS)]
        assert infos[config].download_size == sum(path.stat().st_size for path in paths)
        for path in paths:
            split = path.name.split("-")[0]
            table = pyarrow.parquet.read_table(path)
            assert datasets.Features.from_arrow_schema(table.schema) == cxm.FEATURES
            assert table.to_pylist() == expected[split].with_format("arrow")[:].to_pylist()
            info, known = infos[config].splits[split], expected[split].info.splits[split]
            assert info.num_examples == table.num_rows == known.num_examples
            assert info.num_bytes == pytest.approx(known.num_bytes, abs=9)  # of bitmaps, in other batches
    for name in ("num_examples", "num_bytes"):
        for split, info in infos["all"].splits.items():
            assert getattr(info, name) == sum(getattr(infos[config].splits[split], name) for config in cxm.SITES)
    for name in ("download_size", "dataset_size"):
        assert getattr(infos["all"], name) == sum(getattr(infos[config], name) for config in cxm.SITES)


def test_row_groups_and_shards_are_small(tiny_set, tmp_path) -> None:
    infos = written(tiny_set, tmp_path / "out", max_shard_size="1KB")
    for config, split in (("MC", "train"), ("Shenzhen", "test")):
        count = infos[config].splits[split].num_examples
        paths = sorted((tmp_path / "out" / config).glob(f"{split}-*"))
        assert len(paths) == -(-count // ROWS_PER_GROUP)  # each group is more than 1 KB
        assert [path.name for path in paths] == [
            f"{split}-{n:05d}-of-{len(paths):05d}.parquet" for n in range(len(paths))
        ]
    ids = []
    for path in sorted((tmp_path / "out" / "MC").glob("train-*")):
        file = pyarrow.parquet.ParquetFile(path)
        groups = [file.metadata.row_group(n) for n in range(file.num_row_groups)]
        assert all(group.num_rows <= ROWS_PER_GROUP for group in groups)
        assert groups[0].column(0).has_offset_index  # of the page index
        ids += file.read(columns=["id"])["id"].to_pylist()
    assert ids == sorted(ids)


def test_same_rows_give_the_same_bytes(tiny_set, tmp_path) -> None:
    for name in ("first", "second"):
        written(tiny_set, tmp_path / name)
    assert digests(tmp_path / "first") == digests(tmp_path / "second") != {}
    packed = tmp_path / "set.zip"
    tiny.write_zip({str(path.relative_to(tiny_set)): path.read_bytes() for path in tiny_set.rglob("*.*")}, packed)
    written(packed, tmp_path / "zipped")
    assert digests(tmp_path / "zipped") == digests(tmp_path / "first")


def test_configs_are_of_the_sites_that_are_there(tiny_set, tmp_path) -> None:
    both = data_files(written(tiny_set, tmp_path / "both"))
    assert both["all"]["default"] is True and "default" not in both["MC"]
    assert both["MC"]["data_files"][0] == {"split": "train", "path": ["MC/train-*"]}
    assert both["all"]["data_files"][2] == {"split": "test", "path": ["Shenzhen/test-*", "MC/test-*"]}  # order of ids
    infos = written(tiny.write_tree(tiny.nlm_montgomery(), tmp_path / "nlm"), tmp_path / "one")
    assert list(infos) == ["MC", "all"] and list(infos["MC"].splits) == ["train"]  # its three films are all of train
    assert sorted(digests(tmp_path / "one")) == ["MC/train-00000-of-00001.parquet"]
    assert data_files(infos)["all"]["data_files"] == [{"split": "train", "path": ["MC/train-*"]}]


def test_facts_are_of_the_rows(tiny_set, tmp_path) -> None:
    written(tiny_set, tmp_path / "out", max_shard_size="1KB")
    facts = read_facts(tmp_path / "out")
    ids = [fact.id for fact in facts]
    assert ids == sorted(ids) and len(ids) == 54
    by_id = {fact.id: fact for fact in facts}
    for split, rows in datasets.load_dataset("chest_xray_masks", "all", data_dir=str(tiny_set)).items():
        for row in rows:
            fact = by_id[row["id"]]
            assert (fact.split, fact.patient_id, fact.mode) == (split, row["patient_id"], row["image"].mode)
            assert (fact.width, fact.height) == row["image"].size and not fact.synthetic
            assert fact.site == rows.features["site"].int2str(row["site"])
            assert fact.label == rows.features["label"].int2str(row["label"])
            assert (fact.age_years, fact.findings, fact.reading) == (row["age_years"], row["findings"], row["reading"])
            assert fact.bytes == len(tiny.image_png(row["id"]))
            assert (fact.lungs is None) == (row["mask"] is None)
    assert [id for id in by_id if by_id[id].lungs is None] == [ids[0]]
    assert (by_id[ids[1]].reading, by_id[ids[1]].sex, by_id[ids[2]].sex, by_id[ids[2]].age_years) == (
        None,
        None,
        "male",
        None,
    )
    left, right = tiny.lungs_of(ids[3])
    assert by_id[ids[3]].lungs.shape == (MAP_SIDE, MAP_SIDE)
    assert abs(by_id[ids[3]].lungs.mean() - np.mean(left | right)) < 0.05  # the same fraction of the picture


def test_phantoms_are_known_as_such(tmp_path) -> None:
    written(write_phantoms(tmp_path / "phantoms", 2, 2, 64), tmp_path / "out")
    assert all(fact.synthetic for fact in read_facts(tmp_path / "out"))


def test_what_cannot_be_built_is_refused(tiny_set, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no Montgomery or Shenzhen chest X-rays in"):
        written(tiny.write_tree({"a.txt": b""}, tmp_path / "none"), tmp_path / "out")
    files = tiny.kaggle()
    files["Lung Segmentation/CXR_png/MCUCXR_0001_0.png"] = b"no image"
    with pytest.raises(ValueError, match=r"MCUCXR_0001_0.png cannot be decoded as an image"):
        written(tiny.write_tree(files, tmp_path / "damaged"), tmp_path / "out")
    with pytest.raises(ValueError, match="lots"):
        written(tiny_set, tmp_path / "out", max_shard_size="lots")


@pytest.mark.parametrize("num_shards", [4, 100])
def test_as_many_shards_as_workers_want(num_shards: int, tiny_set, tmp_path) -> None:
    written(tiny_set, tmp_path / "one")
    infos = written(tiny_set, tmp_path / "many", num_shards=num_shards)
    for config in ("MC", "Shenzhen"):
        for split, info in infos[config].splits.items():
            paths = sorted((tmp_path / "many" / config).glob(f"{split}-*"))
            assert len(paths) == min(num_shards, info.num_examples)
            assert paths[-1].name == f"{split}-{len(paths) - 1:05d}-of-{len(paths):05d}.parquet"
            tables = [pyarrow.parquet.read_table(path) for path in paths]
            assert max(map(len, tables)) - min(map(len, tables)) <= 1
            (one,) = (tmp_path / "one" / config).glob(f"{split}-*")
            assert pyarrow.concat_tables(tables).to_pylist() == pyarrow.parquet.read_table(one).to_pylist()
            assert datasets.Features.from_arrow_schema(tables[0].schema) == cxm.FEATURES
        paths = (tmp_path / "many" / config).iterdir()
        assert infos[config].download_size == sum(path.stat().st_size for path in paths)
    found, known = (read_facts(tmp_path / name) for name in ("many", "one"))
    assert [one.id for one in found] == [one.id for one in known]


def test_workers_share_a_stream(tiny_set, tmp_path) -> None:
    """Each of four workers of a loader reads some of the rows, and none is read twice."""
    import torch.utils.data

    written(tiny_set, tmp_path / "out", num_shards=4)
    files = sorted(map(str, (tmp_path / "out" / "MC").glob("train-*")))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True).select_columns("id")
    assert rows.num_shards == 4

    def with_worker(row: dict) -> dict:
        return {"id": row["id"], "worker": torch.utils.data.get_worker_info().id}

    loader = torch.utils.data.DataLoader(rows.map(with_worker), batch_size=None, num_workers=4)
    read = [(row["id"], row["worker"]) for row in loader]
    assert {worker for _, worker in read} == {0, 1, 2, 3}
    expected = [id for file in files for id in pyarrow.parquet.read_table(file)["id"].to_pylist()]
    assert sorted(id for id, _ in read) == sorted(expected)
