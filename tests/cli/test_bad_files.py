"""Whatever a file, a token or an option holds: one `error:` line that says what, why and what to try; exit code 2."""
import base64
import json
import subprocess
import sys
import zlib

import pytest

SCENARIO = '''name = "s"
[[thread]]
name = "a"
ops = [{op = "map", gfn = 0x201, pfn = 0x140201}]
'''
VM = '''[vm]
design = "v7.3"
[[ops]]
op = "map"
gfn = 0x600
pfn = 0x100600
private = 1
'''
ONE = {"name": "s", "thread": [{"name": "a", "ops": [{"op": "map", "gfn": 513, "pfn": 0x140201}]}]}
JUNK = [None, True, -1, 1.5, 1 << 64, "", "x", [], {}, [[]], {"a": 1}]


def refused(result):
    code, out, err = result
    assert code == 2 and out == "", result
    assert err.startswith("error: ") and err.count("\n") == 1 and "; try " in err, err
    assert len(err) < 3000 and err[:-1].isprintable()
    return err


def with_value(path, value):
    record = json.loads(json.dumps(ONE))
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(record)


@pytest.fixture
def file(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path

    return write


@pytest.mark.parametrize("name, content", [
    ("a.toml", ""), ("a.json", ""), ("a.json", "null"), ("a.json", "5"), ("a.json", "[]"), ("a.json", "[" * 100_000),
    ("a.json", '{"name":' * 100_000), ("a.toml", "a=" + "[" * 100_000), ("a.toml", SCENARIO[:-9]),
    ("a.toml", "name='x'\nname='y'\n" + SCENARIO), ("a.toml", bytes(range(256))), ("a.toml", SCENARIO.encode("utf-16")),
    ("a.toml", "name='a\0b'"), ("a.json", '{"name":"s","name":"t"}'),
    ("a.json", '{"name":"s","thread":[{"ops":[{"op":"map","gfn":1,"gfn":2,"pfn":1}]}]}'),
    ("a.json", with_value(["thread", 0, "ops", 0, "gfn"], float("nan"))),
    ("a.json", with_value(["thread", 0, "ops", 0, "gfn"], "9" * 5000)),
    ("a.json", '{"name":"s","thread":[{"ops":[{"op":"map","gfn":' + "9" * 5000 + "}]}]}"),
    ("a.json", with_value(["name"], "\ud800")), ("a.json", with_value(["name"], "a\nb\x1b[31m")),
    ("a.json", with_value(["thread", 0, "name"], "a\nb"))])
def test_scenario_files(tdpfast, file, name, content):
    refused(tdpfast("check", file(name, content), "--jobs", 1))


@pytest.mark.parametrize("path", [
    ["name"], ["thread"], ["thread", 0], ["thread", 0, "name"], ["thread", 0, "ops"], ["thread", 0, "ops", 0],
    ["thread", 0, "ops", 0, "op"], ["thread", 0, "ops", 0, "gfn"], ["thread", 0, "ops", 0, "hook"],
    ["thread", 0, "ops", 0, "race"], ["thread", 0, "ops", 0, "inject"], ["vm"], ["setup"], ["expect"], ["reason"],
    ["text"], ["other"]])
def test_scenario_fields(tdpfast, file, path):
    """Every kind of value at every place: refused, or it means something."""
    for value in JUNK:
        result = tdpfast("check", file("a.json", with_value(path, value)), "--jobs", 1, "--design", "v7.3", "--gated",
                         "--brief", "--max-executions", 2)
        if result[0] == 2:
            refused(result)
        else:
            assert result[0] in (0, 1) and not result[2]


@pytest.mark.parametrize("content", [
    '{"vm":5}', '{"ops":{}}', '{"vm":{"root_level":4,"root_level":5},"ops":[]}', '{"vm":{"hooks":5},"ops":[]}',
    '{"vm":{"hooks":"x"}}', '{"vm":{"tdx":"no"}}', '{"vm":{"mmu":[]}}', '{"vm":{"memslot":5}}', '{"vm":{"fly":1}}',
    '{"ops":[{"op":[]}]}', '{"ops":[{"op":"map","hook":5}]}', "[" * 100_000, "\ufeff[vm", "a\0"])
def test_vm_files(tdpfast, file, content):
    refused(tdpfast("walk", file("a.toml", content), "0x600"))


HUGE = "0x" + "f" * 6000


@pytest.mark.parametrize("op", [
    f"gfn={HUGE}", f"gfn='{HUGE}'", f"hook={HUGE}", f"hook=[{HUGE}]", f"write={HUGE}", f"race=[1, 'hw', '{HUGE}', 0]"])
def test_numbers_of_thousands_of_digits(tdpfast, file, op):
    assert "64 bits" in refused(tdpfast("walk", file("vm.toml", f"ops=[{{op='map', {op}}}]"), "5"))
    assert "64 bits" in refused(tdpfast("walk", file("vm.toml", VM + "x=" + op.partition("=")[2]), "5"))
    thread = f"name='s'\n[[thread]]\nops=[{{op='map', {op}}}]"
    assert "64 bits" in refused(tdpfast("check", file("s.toml", thread), "--jobs", 1))


def test_a_vm_file_says_something_once(tdpfast, file):
    both = refused(tdpfast("walk", file("a.json", '{"ops":[],"setup":[{"op":"map","gfn":5,"pfn":5}]}'), "5"))
    assert "both ops and setup" in both
    for nothing in ("", " \n", "{}", '{"name":"x"}'):
        assert "neither vm nor ops" in refused(tdpfast("walk", file("a.json", nothing), "5"))


def test_a_byte_order_mark_and_crlf_are_no_matter(tdpfast, file):
    for content in (VM.replace("\n", "\r\n"), b"\xef\xbb\xbf" + VM.encode()):
        code, out, _err = tdpfast("walk", file("a.toml", content), "0x600")
        assert code == 0 and "100600" in out


@pytest.mark.parametrize("name", ["", "missing", "a\0b", "x" * 5000, "/", "/dev/zero"])
@pytest.mark.parametrize("command", [
    ("check", "FILE"), ("walk", "FILE", "0x600"),
    ("replay", "--file", "FILE", "tdp1-aa5gkyaa5jrylovymjdg4afaqqasfqictcaboni")])
def test_files_that_cannot_be_read(tdpfast, monkeypatch, name, command):
    from tdpfast import _read

    monkeypatch.setattr(_read, "MAX_CHARS", 1 << 16)
    refused(tdpfast(*(name if word == "FILE" else word for word in command)))


@pytest.mark.parametrize("name", ["", "missing", "a\0b", "x" * 5000, "/"])
def test_recordings_that_cannot_be_read(tdpfast, name):
    refused(tdpfast("conform", name))


def token(body):
    body += zlib.crc32(body).to_bytes(4, "little")
    return "tdp1-" + base64.b32encode(body).decode().rstrip("=").lower()


GOOD = "tdp1-aa5gkyaa5jrylovymjdg4afaqqasfqictcaboni"


@pytest.mark.parametrize("text", [
    "", "tdp1", "tdp1-", "x", "-", "tdp2-" + GOOD[5:], GOOD[:-3], GOOD + "a", "tdp1-" + "a" * 100_000, "tdp\u0663-aa",
    "tdp" + "9" * 5000 + "-a", "tdp1-\u00e9", token(bytes(13) + b"\0\xff\xff\xff\xff\x7f"),
    "tdp1-aaaaaaaaaaaaaaaaaaaaaahb77776h434ug3c", GOOD[:-1] + "j", token(bytes(13) + b"\0\x3f\x3f"),
    token(bytes(13) + b"\0\x80"), token(bytes(13) + b"\xff" * 3000 + b"\1"), token(b"\x09" + bytes(13)), token(b"")])
def test_tokens(tdpfast, text):
    refused(tdpfast("decode", "token", "--", text))
    refused(tdpfast("replay", "--", text))


def test_a_token_of_another_scenario(tdpfast):
    assert "another scenario" in refused(tdpfast("replay", token(bytes(13) + b"\0\x3f")))


def test_every_letter_of_a_token_counts(tdpfast):
    for i in range(5, len(GOOD), 4):
        refused(tdpfast("replay", GOOD[:i] + ("a" if GOOD[i] != "a" else "b") + GOOD[i + 1:]))


@pytest.mark.parametrize("options", [
    ["--max-transitions", 1 << 70], ["--max-transitions", 0], ["--max-executions", 1 << 70], ["--seed", 1 << 64],
    ["--seconds", "nan"], ["--seconds", "inf"], ["--seconds", -1], ["--jobs", 9999], ["--depth", 65], ["--bound", -1]])
def test_options_of_check(tdpfast, file, options):
    refused(tdpfast("check", file("a.toml", SCENARIO), *options))


@pytest.mark.parametrize("value", ["", "x", "-1", "1e5", "0x", "1" * 5000, 1 << 64])
def test_numbers(tdpfast, value):
    for command in (("decode", "spte", "--level", "1"), ("decode", "sept-entry"), ("decode", "seamcall-status")):
        refused(tdpfast(*command, "--", value))


@pytest.mark.parametrize("shell, code", [
    ("tdpfast walk - 0x600 <&-", 2), ("tdpfast check nofile 2>&-", 2),
    ("tdpfast walk a.toml 0x600 --dump >/dev/full", 2), ("tdpfast walk a.toml 0x600 >&-", 2),
    ("tdpfast --version >&-", 2), ("tdpfast --version >/dev/full", 2), ("tdpfast decode spte 5 --level 1 >&- 2>&-", 2),
    ("tdpfast check a.toml >/dev/full 2>/dev/full", 2), ("tdpfast walk missing 5 2>/dev/full", 2),
    ("tdpfast stress --ops 200 --seed 1 2>/dev/full", 2), ("tdpfast stress --ops 200 --seed 1 --json 2>&-", 0),
    (f"tdpfast replay {GOOD} >/dev/full", 2), ("tdpfast decode spte 5 --level 1 2>&-", 0),
    ("tdpfast --help | head -c 1 >/dev/null", 0)])
def test_streams_that_are_not_there(file, tmp_path, shell, code):
    file("a.toml", VM)
    run = f'{sys.executable} -c "from tdpfast.cli import main; main()"'
    done = subprocess.run(["sh", "-c", shell.replace("tdpfast", run, 1)], cwd=tmp_path, capture_output=True, text=True,
                          check=False)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1 and "error:" not in done.stdout
    if code == 2 and "2>" not in shell:
        assert done.stderr.startswith("error: ") and "; try " in done.stderr
