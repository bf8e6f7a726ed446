"""Pickles and PyTorch files from strangers are read as data: nothing runs, and damage is one sentence."""

import contextlib
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeqrl.agents import torch_file
from edgeqrl.agents.safe_pickle import Made, PickleError, class_name, entries, read_pickle, to_array
from edgeqrl.agents.torch_file import Archive, read_state_dict
from edgeqrl.errors import AgentError
from tests.sb3_agents import import_sb3

ARRAYS = {
    "float64": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "float16": np.array([1.5, -2], np.float16),
    "big-endian": np.arange(5, dtype=">i4"),
    "bytes": np.arange(5, dtype=np.uint8),
    "booleans": np.array([[True, False]]),
    "scalar": np.float64(3.25),
    "one-number": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
}


class Trap:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.place}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ARRAYS)
def test_numpy_arrays_are_read_from_every_protocol(name: str, protocol: int) -> None:
    data = pickle.dumps(ARRAYS[name], protocol)
    found = to_array(read_pickle(data))
    np.testing.assert_array_equal(found, ARRAYS[name])
    assert found.dtype == ARRAYS[name].dtype.newbyteorder("=") or found.dtype == ARRAYS[name].dtype
    for ours, other in ((b"numpy.core", b"numpy._core"), (b"numpy._core", b"numpy.core")):
        np.testing.assert_array_equal(to_array(read_pickle(renamed(data, ours, other))), found)


def renamed(data: bytes, ours: bytes, other: bytes) -> bytes:
    """Return the pickle as another version of NumPy would have written it."""
    for module in (b".multiarray", b".numeric"):
        old, new = ours + module, other + module
        data = data.replace(b"\x8c" + bytes([len(old)]) + old, b"\x8c" + bytes([len(new)]) + new)
        data = data.replace(b"c" + old + b"\n", b"c" + new + b"\n")
    return data


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner) | st.tuples(inner)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(plain, st.integers(2, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_back_as_they_were(value: Any, protocol: int) -> None:
    assert read_pickle(pickle.dumps(value, protocol)) == value


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_pickles_are_refused_and_nothing_else(data: Any) -> None:
    original = pickle.dumps({"a": np.arange(4.0), "b": [OrderedDict(x=(1, "y"))] * 2})
    position = data.draw(st.integers(0, len(original) - 1))
    damaged = original[:position] + data.draw(st.binary(max_size=8)) + original[position + 1 :]
    with contextlib.suppress(PickleError):
        to_array(entries(read_pickle(damaged)).get("a"))


def test_classes_and_calls_become_records(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    found = read_pickle(pickle.dumps([Trap(trap), OrderedDict(a=1), {1, 2}]))
    assert class_name(found[0]).endswith(".system")
    assert isinstance(found[0], Made)
    assert entries(found[1]) == {"a": 1}
    assert sorted(found[2].elements) == [1, 2]
    assert not trap.exists()


HOSTILE = {
    "nothing": b"",
    "text": b"hello",
    "no end": b"\x80\x04",
    "an empty stack": b"\x80\x04.",
    "a missing memory": b"\x80\x04h\x07.",
    "a mark as value": b"\x80\x04(.",
    "a called number": b"\x80\x04K\x01)R.",
    "a state of a number": b"\x80\x04K\x01K\x02b.",
    "an extension": b"\x80\x04\x82\x01.",
    "a buffer outside": b"\x80\x05\x97.",
    "a tuple as key": b"\x80\x04}K\x01K\x02\x86K\x03s.",
    "more bytes than there are": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x.",
    "a number of a million digits": b"I" + b"9" * 10**6 + b"\n.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_data_is_refused(name: str) -> None:
    with pytest.raises(PickleError):
        read_pickle(HOSTILE[name])


def test_pickles_that_would_fill_the_memory_do_not() -> None:
    read_pickle(b"\x80\x04Nr\xff\xff\xff\xff.")  # a memory index of 2**32 - 1
    doubled = b"\x80\x04)" + b"2\x86" * 100_000 + b"."  # 2**100000 leaves, if one counted
    assert isinstance(read_pickle(doubled), tuple)
    for instructions in (b"]", b"h\x00"):
        with pytest.raises(PickleError, match="instructions"):
            read_pickle(b"\x80\x04]q\x00" + instructions * 2**22 + b".")
    nested = read_pickle(b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".")
    assert isinstance(nested, list)


@pytest.mark.parametrize(
    "value",
    [np.array(["a"]), np.array([object()]), np.zeros(2, "datetime64[s]"), "text", None, [1, 2], {"a": 1}],
    ids=["text", "objects", "dates", "string", "none", "list", "dict"],
)
def test_what_is_no_array_of_numbers_is_refused(value: Any) -> None:
    data = pickle.dumps(value) if not (isinstance(value, np.ndarray) and value.dtype == object) else None
    found = read_pickle(data if data is not None else pickle.dumps(np.array([None, 1])))
    with pytest.raises(PickleError):
        to_array(found)


def torch_bytes(value: Any, **options: Any) -> bytes:
    torch, _ = import_sb3()
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def test_tensors_of_every_kind_come_back() -> None:
    torch, _ = import_sb3()
    torch.manual_seed(0)
    tensors = {
        "transposed": torch.randn(3, 4).t(),
        "slice": torch.randn(2, 5, 3)[:, 1:4:2],
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "half": torch.randn(3).half(),
        "bfloat16": torch.randn(3).bfloat16(),
        "double": torch.randn(2, 2).double(),
        "integers": torch.arange(3),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "booleans": torch.tensor([True, False]),
        "number": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    checkpoint = tensors | {"step": 3, "model": {"inner": module.state_dict()}, "name": "agent"}
    found = read_state_dict(torch_bytes(checkpoint), "agent.pt")
    wanted = tensors | {f"model.inner.{key}": value for key, value in module.state_dict().items()}
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        expected = tensor.detach().float().numpy()
        assert found[name].shape == expected.shape
        np.testing.assert_array_equal(found[name].astype(np.float32), expected)


@pytest.mark.parametrize("kind", ["module", "quantized", "list", "expanded", "sparse", "script", "old"])
def test_what_is_no_state_dict_is_refused(kind: str, tmp_path: Path) -> None:
    torch, _ = import_sb3()
    path = tmp_path / "agent.pt"
    if kind == "script":
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), path)
    else:
        value = {
            "module": torch.nn.Linear(2, 3),
            "quantized": {"a": torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8)},
            "list": [torch.zeros(1)],
            "expanded": {"a": torch.zeros(1).expand(5)},
            "sparse": {"a": torch.eye(3).to_sparse()},
            "old": {"a": torch.zeros(1)},
        }[kind]
        path.write_bytes(torch_bytes(value, _use_new_zipfile_serialization=kind != "old"))
    with pytest.raises(AgentError) as caught:
        read_state_dict(path, str(path))
    assert "\n" not in str(caught.value)


def rewritten(data: bytes, edit: Any) -> bytes:
    """Return a zip archive whose members [name -> bytes] were edited."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    edit(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def replace_in_index(old: bytes, new: bytes) -> Any:
    def edit(members: dict[str, bytes]) -> None:
        assert old in members["archive/data.pkl"]
        members["archive/data.pkl"] = members["archive/data.pkl"].replace(old, new, 1)

    return edit


LIES = {
    "fewer bytes": lambda members: members.update({"archive/data/0": b"\0" * 4}),
    "no bytes": lambda members: members.pop("archive/data/0"),
    "a larger shape": replace_in_index(b"K\x02K\x03\x86", b"K\x09K\x03\x86"),
    "a longer stride": replace_in_index(b"K\x03K\x01\x86", b"K\x63K\x01\x86"),
    "a stride back": replace_in_index(b"K\x03K\x01\x86", b"J\xff\xff\xff\xffK\x01\x86"),
    "more axes than arrays have": replace_in_index(b"K\x02K\x03\x86", b"(" + b"K\x01" * 10**5 + b"t"),
    "a length that no machine counts": replace_in_index(
        b"K\x03K\x01\x86", b"K\x03\x8a\x0a" + b"\x7f" * 10 + b"\x86"
    ),
    "another storage": replace_in_index(b"ctorch\nFloatStorage", b"ctorch\nMagicStorage"),
    "another maker": replace_in_index(b"_rebuild_tensor_v2", b"_rebuild_anything_"),
    "a place outside": replace_in_index(b"X\x01\x00\x00\x000", b"X\x04\x00\x00\x00../0"),
    "a way out": lambda members: members.update({"../../evil": b"x"}),
    "an absolute way": lambda members: members.update({"/etc/evil": b"x"}),
}


@pytest.mark.parametrize("name", LIES)
def test_lying_tensor_files_are_refused(name: str) -> None:
    torch, _ = import_sb3()
    data = torch_bytes({"weight": torch.arange(6.0).reshape(2, 3)})
    assert list(read_state_dict(rewritten(data, lambda members: None), "agent.pt")) == ["weight"]
    with pytest.raises(AgentError, match=r"agent\.pt") as caught:
        read_state_dict(rewritten(data, LIES[name]), "agent.pt")
    assert "\n" not in str(caught.value)


def test_code_in_a_tensor_file_is_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    data = torch_bytes({"a": Trap(trap)})
    assert read_state_dict(data, "agent.pt") == {}
    with pytest.raises(AgentError, match="it holds a whole"):
        read_state_dict(torch_bytes(Trap(trap)), "agent.pt")
    assert not trap.exists()


def test_archives_that_unpack_to_too_much_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_file, "MAX_BYTES", 10**6)
    bomb = rewritten(torch_bytes({}), lambda members: members.update({"zeros": b"\0" * (2 * 10**6)}))
    assert len(bomb) < 10**5
    with pytest.raises(AgentError, match="unpacks to, more than"):
        Archive(bomb, "agent.pt")


def test_a_member_that_claims_to_be_smaller_than_it_is_is_refused() -> None:
    bomb = bytearray(rewritten(torch_bytes({}), lambda members: members.update({"zeros": b"\0" * 10**6})))
    assert bomb.count((10**6).to_bytes(4, "little")) == 2
    bomb = bomb.replace((10**6).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    with pytest.raises(AgentError, match="is damaged"):
        Archive(bytes(bomb), "agent.pt").read("zeros")


def test_nothing_is_unpacked_beyond_what_it_claims() -> None:
    """Of compressions that cannot be stopped half way, nothing is unpacked at all."""
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            archive.writestr("zeros", b"\0" * 10)
        with pytest.raises(AgentError, match="bzip2 or LZMA"):
            Archive(buffer.getvalue(), "agent.pt").read("zeros")


def test_tensors_that_share_bytes_are_not_copied_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    torch, _ = import_sb3()
    shared = torch.zeros(1000)
    data = torch_bytes({str(i): shared.view(10, 100) for i in range(50)})
    assert len(read_state_dict(data, "agent.pt")) == 50
    monkeypatch.setattr(torch_file, "MAX_BYTES", 100_000)
    with pytest.raises(AgentError, match="too often"):
        read_state_dict(data, "agent.pt")


def test_every_truncated_archive_is_refused() -> None:
    torch, _ = import_sb3()
    data = torch_bytes({"weight": torch.arange(6.0)})
    for length in range(0, len(data), 11):
        with pytest.raises(AgentError):
            read_state_dict(data[:length], "agent.pt")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_flipped_bytes_never_do_more_than_be_refused(data: Any) -> None:
    torch, _ = import_sb3()
    original = bytearray(torch_bytes({"weight": torch.arange(6.0).reshape(2, 3)}))
    for _ in range(data.draw(st.integers(1, 3))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(AgentError):
        read_state_dict(bytes(original), "agent.pt")
