import os

import pytest

from replicate import paths, stages
from replicate.errors import UserError


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PACKAGE", tmp_path)
    stages.code_hash.cache_clear()
    yield tmp_path
    stages.code_hash.cache_clear()


def code_hash(package, text):
    (package / "a.py").write_text(text)
    stages.code_hash.cache_clear()
    return stages.code_hash(("a.py",))


def test_code_hash_sees_code_and_not_comments(package):
    first = code_hash(package, '"""Doc."""\n\ndef f(x):\n    """Doc."""\n    return x + 1\n')
    assert first == code_hash(package, '"""Other."""\ndef f(x):  # why\n    """Words."""\n\n    return (x + 1)\n')
    assert first != code_hash(package, '"""Doc."""\n\ndef f(x):\n    """Doc."""\n    return x + 2\n')


def test_fingerprint_ignores_order_and_sees_values():
    assert stages.fingerprint({"a": 1, "b": [2.5]}) == stages.fingerprint({"b": [2.5], "a": 1})
    assert stages.fingerprint({"a": 1}) != stages.fingerprint({"a": 1.5})


def test_seeds_of_repeated_configurations_differ():
    seeds = {stages.derived_seed("init", seed, run) for seed in (0, 1) for run in ("SimCLR-15", "SimCLR-20", "SimCLR-28")}
    assert len(seeds) == 6 and all(0 <= seed < 2**63 for seed in seeds)


def test_output_is_read_back_only_under_its_hash(tmp_path):
    path = tmp_path / "deep" / "out.json"
    assert stages.read_output(path) is None
    stages.write_output(path, "abc", {"rows": [1]})
    assert stages.read_output(path, "abc")["rows"] == [1]
    assert stages.read_output(path, "abd") is None


@pytest.mark.parametrize("damage", ["", "{", '{"rows": []}', "[]", '"text"'])
def test_damaged_output_is_an_error_that_names_the_file(tmp_path, damage):
    path = tmp_path / "out.json"
    path.write_text(damage)
    with pytest.raises(UserError, match="out.json.*delete"):
        stages.read_output(path, "abc")


def test_a_flipped_bit_is_damage_wherever_it_is(tmp_path):
    path = tmp_path / "out.json"
    stages.write_output(path, "abc", {"rows": [{"value": 13.5, "note": "\u00e9"}], "seconds": 1})
    whole, expected = path.read_bytes(), stages.read_output(path)
    assert expected == {"fingerprint": "abc", "rows": [{"value": 13.5, "note": "\u00e9"}], "seconds": 1}
    noticed = 0
    for at in range(8 * len(whole)):
        path.write_bytes(whole[: at // 8] + bytes([whole[at // 8] ^ 1 << at % 8]) + whole[at // 8 + 1 :])
        try:
            assert stages.read_output(path).items() >= expected.items()  # only the last newline or the checksum's name
        except UserError:
            noticed += 1
    assert noticed > 0.9 * 8 * len(whole)


def test_an_output_without_a_checksum_is_read_as_before(tmp_path):
    (tmp_path / "out.json").write_text('{"fingerprint": "abc", "rows": [1]}\n')
    assert stages.read_output(tmp_path / "out.json", "abc") == {"fingerprint": "abc", "rows": [1]}


def test_sweep_removes_what_a_killed_process_left_and_nothing_else(tmp_path):
    (tmp_path / ".checkpoint.x1.pt.tmp").write_text("half")
    (tmp_path / "checkpoint.pt").write_text("whole")
    (tmp_path / ".lock").touch()
    paths.sweep(tmp_path)
    paths.sweep(tmp_path / "absent")
    assert sorted(os.listdir(tmp_path)) == [".lock", "checkpoint.pt"]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    paths.write_text(path, "old")
    with pytest.raises(RuntimeError):
        with paths.atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]


def test_replace_folder(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    paths.replace_folder(tmp_path / "new", tmp_path / "old")
    assert os.listdir(tmp_path) == ["old"] and (tmp_path / "old" / "who").read_text() == "new"
