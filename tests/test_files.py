"Files: a fault of JSON and YAML is named with the file and the line, whatever the file is for."

import pytest
import yaml

from empathy_probes.machine.files import ConceptError, name_fault, read_json, read_json_lines, read_yaml

YAML_FAULTS = {
    "a: 1\nb: 2\na: 3\n": "line 3: not valid YAML .the key 'a' is given twice, first in line 1; remove one of them",
    "a:\n  b: 1\nc:\n  b: 1\n  b: 2\n": "line 5: not valid YAML .the key 'b' is given twice, first in line 4",
    "{a: 1, 'a': 2}": "line 1: not valid YAML .the key 'a' is given twice",
    "- a: 1\n- {b: 1, c: 2, b: 3}\n": "line 2: not valid YAML .the key 'b' is given twice",
    "1: a\n1.0: b\n": "line 2: not valid YAML .the key 1.0 is given twice",
    "a: [1\n": "line 2: not valid YAML .expected",
    "a: b: c\n": "line 1: not valid YAML .mapping values are not allowed here",
    "? [a]\n: b\n": "line 1: not valid YAML .found unhashable key",
    "a: !!python/object:os.system x\n": "line 1: not valid YAML .could not determine a constructor",
    "a: \x00\n": "not valid YAML .unacceptable character",
    "a: 2024-02-30\n": "not valid YAML .day is out of range for month",
}


@pytest.mark.parametrize("text, message", YAML_FAULTS.items(), ids=YAML_FAULTS.values())
def test_a_fault_of_yaml_is_named_with_file_and_line(tmp_path, text, message):
    path = tmp_path / "words.yaml"
    path.write_text(text)
    with pytest.raises(ConceptError, match=f"words.yaml(, |: ){message}"):
        read_yaml(path)


def test_good_yaml_is_read_as_ever(tmp_path):
    text = "base: &base {a: 1, b: 2}\nmore:\n  <<: *base\n  b: 3\nlist: [{a: 1}, {a: 2}]\nempty:\n"
    path = tmp_path / "words.yaml"
    path.write_text(text)
    assert read_yaml(path) == yaml.safe_load(text) == {"base": {"a": 1, "b": 2}, "more": {"a": 1, "b": 3}, "list": [{"a": 1}, {"a": 2}], "empty": None}


def test_a_fault_of_json_is_named_with_file_and_line_or_key(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1},\n {"b": {"c": "one", "c": "two"}}]')
    with pytest.raises(ConceptError, match="rows.json: the key 'c' is given twice, as 'one' and as 'two'; remove one of them"):
        read_json(path)
    with pytest.raises(ConceptError, match="rows.json, line 1: not valid JSON"):
        read_json_lines(path)
    path.write_text('[{"a": 1},\n {"b": }]')
    with pytest.raises(ConceptError, match="rows.json, line 2: not valid JSON .Expecting value at column 8"):
        read_json(path)
    path.write_text('{"a": {"b": 1}}\r\n\r\n{"a": {"b": 1, "b": 1}}\r\n')
    with pytest.raises(ConceptError, match="rows.json, line 3: the key 'b' is given twice"):
        read_json_lines(path)


@pytest.mark.parametrize("name", [270, "270", "1e5", "nan", "inf", "true", True, "null", None, "None", "no", "a:b", "../x", "a b", "-a", ".a", "a\n", "ä"])
def test_a_name_that_is_not_the_same_everywhere_is_refused(name):
    assert name_fault(name).startswith(f"the name {name!r} ") and name_fault(name).endswith("choose another one")
