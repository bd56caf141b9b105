"""The challenge's text and the packed arrays: equal, and faulty files named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tenfold.clinical.cohort import DataNotFound
from tenfold.clinical.physionet2012 import Physionet2012, read_physionet2012, write_npz
from tenfold.core.errors import UserError

HEADER = "Time,Parameter,Value\n"
STAY = "00:00,RecordID,5\n00:00,Age,60\n00:00,Gender,1\n00:00,Height,-1\n00:00,ICUType,3\n00:00,Weight,80\n"
OUTCOMES = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n5,6,1,5,-1,0\n"


@pytest.fixture(scope="module")
def clinical(data_dir: Path) -> Path:
    return data_dir / "03-04-clinical"


def folder_of(tmp_path: Path, text: str, outcomes: str = OUTCOMES, name: str = "5.txt") -> Path:
    (tmp_path / "set-a").mkdir()
    (tmp_path / "set-a" / name).write_text(text, encoding="latin-1")
    (tmp_path / "Outcomes-a.txt").write_text(outcomes)
    return tmp_path


def same(a: Physionet2012, b: Physionet2012) -> None:
    for name in ("record_id", "static", "outcomes", "offsets", "minute", "var", "value"):
        one, two = getattr(a, name), getattr(b, name)
        assert one.dtype == two.dtype, name
        assert np.array_equal(one, two), name
    assert (a.variables, a.static_names, a.outcome_names) == (b.variables, b.static_names, b.outcome_names)


def test_text_equals_the_packed_rows(clinical: Path) -> None:
    text = read_physionet2012(clinical / "raw_sample")
    packed = read_physionet2012(clinical, ["a"])
    assert len(text) == 12
    rows = np.searchsorted(packed.record_id, text.record_id)
    taken = [np.arange(packed.offsets[row], packed.offsets[row + 1]) for row in rows]
    place = np.concatenate(taken)
    same(
        text,
        Physionet2012(
            packed.record_id[rows],
            packed.static[rows],
            packed.outcomes[rows],
            np.cumsum([0, *map(len, taken)]).astype(np.int32),
            packed.minute[place],
            packed.var[place],
            packed.value[place],
        ),
    )


def test_counts_of_the_packed_sets(clinical: Path) -> None:
    a, both = read_physionet2012(clinical, ["a"]), read_physionet2012(clinical)
    assert (len(a), len(a.value)) == (4000, 1_654_892)
    assert (len(both), len(both.value)) == (5939, 1_654_892 + 771_598)
    assert int(a.outcome("In-hospital_death").sum()) == 554
    assert both.ids[:2] == ["132539", "132540"]
    last = both.offsets[-2:]
    assert np.array_equal(both.value[last[0] :], read_physionet2012(clinical, ["b1"]).value[-(last[1] - last[0]) :])
    series = both.series()
    assert (np.diff(series.hours)[np.diff(series.subject) == 0] >= 0).all()


def test_without_a_folder_the_prepared_one_is_read(clinical: Path) -> None:
    assert len(read_physionet2012(sets=["b1"])) == 1939


def test_packing_and_unpacking(clinical: Path, tmp_path: Path) -> None:
    stays = read_physionet2012(clinical / "raw_sample")
    write_npz(stays, tmp_path / "physionet2012_mine.npz")
    same(read_physionet2012(tmp_path), stays)


def test_lines_of_a_stay(tmp_path: Path) -> None:
    body = "00:00,Weight,79\n00:30,HR,70\n00:30,HR,71.5\n00:10,Temp,36\n01:00,,-1\n48:00,HR,9e1\n"  # out of order, nameless
    stays = read_physionet2012(folder_of(tmp_path, (HEADER + STAY + body).replace("\n", "\r\n")))
    assert stays.static.tolist() == [[60.0, 1.0, -1.0, 3.0, 80.0]]
    assert stays.minute.tolist() == [0, 10, 30, 30, 2880]
    assert [stays.variables[var] for var in stays.var] == ["Weight", "Temp", "HR", "HR", "HR"]
    assert stays.value.tolist() == [79.0, 36.0, 70.0, 71.5, 90.0]
    assert stays.outcomes.tolist() == [[6, 1, 5, -1, 0]]


def test_new_stays_have_no_outcomes_yet(tmp_path: Path) -> None:
    root = folder_of(tmp_path, HEADER + STAY + "00:30,HR,70\n")
    known = read_physionet2012(root)
    (root / "Outcomes-a.txt").unlink()
    with pytest.raises(DataNotFound, match=r"Outcomes-a.txt not found"):
        read_physionet2012(root)
    for place in (root, root / "set-a"):
        new = read_physionet2012(place, labelled=False)
        assert new.ids == known.ids and new.value.tolist() == known.value.tolist()
        assert new.outcomes.tolist() == [[-1] * 5]


def test_a_stay_without_measurements(tmp_path: Path) -> None:
    stays = read_physionet2012(folder_of(tmp_path, HEADER + STAY))
    assert stays.offsets.tolist() == [0, 0]
    assert stays.series().last_hours().tolist() == [-np.inf]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "5.txt row 1: got '', need the header Time,Parameter,Value"),
        ("a,b\n", "5.txt row 1: got 'a,b', need the header"),
        (HEADER + STAY + "00:10,HR\n", "5.txt row 8: got '00:10,HR', need three columns"),
        (HEADER + STAY + "00:10,HR,1,2\n", "5.txt row 8: got '00:10,HR,1,2', need three columns"),
        (HEADER + STAY + "00:10,HR\n00:10,HR,7,8\n", "5.txt row 8: got '00:10,HR', need three columns"),
        (HEADER + STAY + "\n00:10,HR,5\n", "5.txt row 8: got '', need three columns"),
        (HEADER + STAY + "0:10,HR,5\n", "5.txt row 8, column Time: got '0:10', need HH:MM, 00:00 to 48:00"),
        (HEADER + STAY + "48:01,HR,5\n", "5.txt row 8, column Time: got '48:01'"),
        (HEADER + STAY + "00:60,HR,5\n", "5.txt row 8, column Time: got '00:60'"),
        (HEADER + STAY + "00:10,Pulse,5\n", "5.txt row 8, column Parameter: got 'Pulse', need a variable"),
        (HEADER + STAY + "00:10,HR,fast\n", "5.txt row 8, column Value: got 'fast', need a number"),
        (HEADER + STAY + "00:10,HR,nan\n", "5.txt row 8, column Value: got 'nan'"),
        (
            HEADER + STAY + "00:10,HR,1e300\n",
            r"5.txt row 8, column Value: got '1e300', need a number \(single precision\)",
        ),
        (HEADER + STAY + "00:10,HR,1_0\n", "5.txt row 8, column Value: got '1_0'"),
        (HEADER + STAY + "00:10,HR,é\n", "5.txt row 8, column Value: got 'é'"),
        (HEADER + STAY.replace(",5\n", ",6\n", 1), "5.txt: got RecordID 6, need 5, the name of the file"),
        (HEADER, "5.txt: got RecordID None, need 5"),
    ],
)
def test_faulty_stays_are_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_physionet2012(folder_of(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ("", "Outcomes-a.txt row 1: got '', need RecordID,SAPS-I"),
        (OUTCOMES.replace("SOFA", "Sofa"), "Outcomes-a.txt row 1: got 'RecordID,SAPS-I,Sofa"),
        (OUTCOMES + "6,1\n", "Outcomes-a.txt row 3: got 2 columns, need 6"),
        (OUTCOMES + "6,1,1,1,x,0\n", "Outcomes-a.txt row 3, column Survival: got 'x', need a whole number"),
        (OUTCOMES.replace("\n5,", "\n7,"), "5.txt: no row of this stay in Outcomes-a.txt"),
    ],
)
def test_faulty_outcomes_are_named(outcomes: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_physionet2012(folder_of(tmp_path, HEADER + STAY, outcomes))


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = (
        r"physionet2012_a.npz not found in .*; pass its folder \(data_dir=…, --data.path\) or use the 'sim' preset"
    )
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=message):
            read_physionet2012(place)
    monkeypatch.setenv("TENFOLD_DATA", str(tmp_path))
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    with pytest.raises(DataNotFound, match=r"03-04-clinical.*pass its folder .*or use the 'sim' preset"):
        read_physionet2012()
    root = folder_of(tmp_path, HEADER + STAY)
    with pytest.raises(FileNotFoundError, match=r"physionet2012_c.npz not found"):
        read_physionet2012(root, ["c"])
    (root / "Outcomes-a.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"Outcomes-a.txt not found"):
        read_physionet2012(root)
    shutil.rmtree(root / "set-a")
    (root / "set-a").mkdir()
    (root / "Outcomes-a.txt").write_text(OUTCOMES)
    with pytest.raises(FileNotFoundError, match=r"no <RecordID>.txt in .*set-a"):
        read_physionet2012(root)


def test_damaged_packed_files_are_named(clinical: Path, tmp_path: Path) -> None:
    path = tmp_path / "physionet2012_a.npz"
    stays = read_physionet2012(clinical / "raw_sample")
    write_npz(stays, path)
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[:-500], whole[:1000] + bytes(200) + whole[1200:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"physionet2012_a.npz: no file of stays that can be read") as caught:
            read_physionet2012(tmp_path)
        assert "\n" not in str(caught.value)
    for changed, message in (
        ({"minute": stays.minute[:-1]}, "arrays do not fit together"),
        ({"offsets": stays.offsets[::-1]}, "arrays do not fit together"),
        ({"value": np.full_like(stays.value, np.nan)}, "arrays do not fit together"),
        ({"value": stays.value.astype(np.float64)}, "arrays are of other kinds"),
        ({"record_id": np.int32(3)}, "arrays are of other kinds"),
        ({"variables": stays.variables[1:]}, "arrays are of other kinds"),
    ):
        write_npz(Physionet2012(**{**vars(stays), **changed}), path)
        with pytest.raises(UserError, match=message):
            read_physionet2012(tmp_path)
