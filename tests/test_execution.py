"""What in the package can run code that somebody else wrote: every such call is listed here, with why it may stand there.

A call that is not in the list fails the test; so does a line of the list that nothing in the package matches any more.
"""

import ast
import json
import shutil
from collections import Counter
from pathlib import Path

import faces
import pytest

import eigenbank

SRC = Path(eigenbank.__file__).parent

RUNS = {
    "eval", "exec", "compile", "__import__", "import_module", "find_spec", "spec_from_file_location", "exec_module", "run_path",
    "run_module", "entry_points", "system", "popen", "Popen", "run", "check_call", "check_output", "call", "execv", "execve", "spawnv",
    "startfile", "from_pretrained", "from_single_file", "from_config", "load_lora_weights", "load_ip_adapter", "load_textual_inversion",
    "InferenceSession", "register_custom_ops_library", "load_library", "CDLL", "load", "loads", "unpickle", "Unpickler", "load_module",
    "pipeline", "memmap", "load_file", "safe_open", "get_class_from_dynamic_module", "unsafe_load", "full_load", "load_url",
    "extractall", "unpack_archive",
}  # fmt: skip
"""Last names of calls that can import, unpickle or execute, here or in a library."""

ALLOWED = {
    # The program's own modules, by names that stand in its source.
    ("__init__.py", "importlib.import_module(_HOMES[name])"): "a module of ours, from a table",
    ("cli/main.py", "importlib.import_module('eigenbank.cli.complete')"): "a module of ours",
    ("cli/main.py", "importlib.import_module(f'eigenbank.{module}')"): "a module of ours, from the table of commands",
    (
        "plans/files.py",
        "importlib.import_module('tomllib' if sys.version_info >= (3, 11) else 'tomli')",
    ): "a parser of data",
    ("play/__init__.py", "importlib.util.find_spec('gradio')"): "asks whether it is installed",
    (
        "cli/demo.py",
        "subprocess.run([sys.executable, '-m', 'eigenbank', *command], check=False, env=safe)",
    ): "this program, no shell",
    ("builders/build.py", "ctypes.CDLL(None)"): "the C library that is loaded already",
    ("doctor.py", "platform.system()"): "names the system",
    ("plans/transport.py", "call()"): "a function that the caller gave",
    ("api.py", "call()"): "a function that the caller gave",
    ("loaders/pipelines.py", "importlib.util.find_spec('transformers')"): "asks whether it is installed",
    # Packages that the user installed.
    ("registry/plugins.py", "entry_points(group=f'eigenbank.{kind}')"): "plugins of installed packages",
    ("registry/plugins.py", "point.load()"): "imports a plugin of an installed package",
    # A file that the user named on the command line.
    (
        "builders/label/attributes.py",
        "torch.export.load(path)",
    ): "can run code: only a file that was named itself, with a warning",
    (
        "builders/label/attributes.py",
        "run(resized(part))",
    ): "the network, of ours, ONNX Runtime's or torch.export's, as opened below",
    ("builders/label/attributes.py", "load(path)"): "one of the two below, for the file's ending",
    ("builders/label/attributes.py", "session.run(None, {given: images.cpu().numpy()})"): "the ONNX graph below",
    # Data: what is read cannot run.
    (
        "builders/checkpoints/folder.py",
        "torch.load(path, map_location='cpu', mmap=True, weights_only=True)",
    ): "tensors alone",
    (
        "loaders/pipelines.py",
        "kind.from_single_file(str(file), config=config, torch_dtype=dtype)",
    ): "safetensors, whose header was read before; a class of diffusers",
    ("plans/files.py", "toml.loads(text)"): "TOML",
    ("loaders/photo.py", "opened.load()"): "decodes a picture of a listed format",
}
"""Calls, as they stand in the source, and why each may."""

DATA = {
    "load_file": "safetensors: tensors alone",
    "safe_open": "safetensors: tensors alone",
    "memmap": "numbers of a file whose header was checked",
    "InferenceSession": "an ONNX graph of the operators that ONNX Runtime has; given as bytes, it finds no other files",
    "from_config": "a class that the program names, with numbers",
}
"""Names whose every call in the package is allowed, and why."""


def _calls() -> list[tuple[str, str, ast.Call]]:
    """Each call that may run code: the file, the call as it is written, and its tree."""
    found = []
    for path in sorted(SRC.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                # A pattern and JSON run nothing, and a model's eval() switches training off.
                method = isinstance(node.func, ast.Attribute)
                if (
                    name in RUNS
                    and ast.unparse(node.func) not in ("re.compile", "json.loads")
                    and not (method and name == "eval")
                ):
                    found.append((path.relative_to(SRC).as_posix(), ast.unparse(node), node))
    return found


def test_every_call_that_can_run_code_is_known() -> None:
    unknown = []
    used: Counter[tuple[str, str]] = Counter()
    for file, text, node in _calls():
        name = text.partition("(")[0].rpartition(".")[2]
        if (file, text) in ALLOWED:
            used[file, text] += 1
        elif name in DATA or _is_ours(file, node) or _is_safe_pretrained(node):
            continue
        else:
            unknown.append(f"{file}:{node.lineno}: {text[:150]}")
    assert not unknown, "can this run what a stranger wrote? If not, say why in ALLOWED"
    assert set(used) == set(ALLOWED), "these are gone from the package"


def _is_ours(file: str, node: ast.Call) -> bool:
    """Whether the function is one that the same file defines or imports from this package."""
    tree = ast.parse((SRC / file).read_text(encoding="utf-8"))
    names = {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}
    for each in ast.walk(tree):
        if isinstance(each, ast.ImportFrom) and (each.module or "").startswith("eigenbank"):
            names |= {alias.asname or alias.name for alias in each.names}
    return isinstance(node.func, ast.Name) and node.func.id in names


def _is_safe_pretrained(node: ast.Call) -> bool:
    """Whether it is a `from_pretrained` that trusts no code, and passes no pipeline of somebody's own."""
    given = {
        each.arg for each in node.keywords if (each.arg, ast.unparse(each.value)) != ("trust_remote_code", "False")
    }
    return ast.unparse(node.func).endswith((".from_pretrained", ".load_lora_weights")) and not given & {
        "trust_remote_code", "custom_pipeline", "code_revision",
    }  # fmt: skip


def test_no_source_asks_for_code_or_pickles() -> None:
    for path in SRC.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword):
                assert node.arg not in ("custom_pipeline", "allow_pickle"), path
                # Unsaid, transformers asks at the terminal.
                assert not (node.arg == "trust_remote_code" and ast.unparse(node.value) != "False"), path
                assert not (node.arg == "weights_only" and ast.unparse(node.value) != "True"), path
                assert not (node.arg == "shell" and ast.unparse(node.value) != "False"), path
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {name.partition(".")[0] for name in names} & {
                    "pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "runpy", "code",
                }, path  # fmt: skip


@pytest.mark.parametrize(
    "index",
    [
        {"unet": ["eigenbank_was_run", "X"]},
        {"unet": ["os", "system"]},
        {"_class_name": ["eigenbank_was_run", "X"]},
        {"scheduler": ["eigenbank_was_run.inner", "X"]},
        {"unet": [["eigenbank_was_run"], "X"]},
    ],
)
def test_a_checkpoint_that_brings_code_is_not_opened(
    index: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eigenbank.loaders.pipelines import open_pipeline
    from eigenbank.schemas.errors import SourceError

    folder = Path(shutil.copytree(faces.FOLDER, tmp_path / "model"))
    found = json.loads((folder / "model_index.json").read_bytes())
    (folder / "model_index.json").write_text(json.dumps({**found, **index}))
    ran = tmp_path / "ran"
    for place in (tmp_path, folder, folder / "unet", folder / "scheduler"):
        (place / "eigenbank_was_run.py").write_text(f"open({str(ran)!r}, 'w')\nclass X: pass\n")
    for config in (folder / "unet" / "config.json", folder / "scheduler" / "scheduler_config.json"):
        more = {"auto_map": {"AutoModel": "eigenbank_was_run.X"}}
        config.write_text(json.dumps({**json.loads(config.read_bytes()), **more}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SourceError, match="none of it was run"):
        open_pipeline(folder)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("scheduler", {"num_train_timesteps": 2_000_000_000}),
        ("scheduler", {"more": [{"steps": 2**40}]}),
        ("unet", {"layers_per_block": 1_000_000}),
        ("unet", {"block_out_channels": [2**30, 2**30]}),
    ],
)
def test_a_config_that_asks_for_more_than_there_can_be_is_refused_before_memory_is_taken(
    part: str, changes: dict[str, object], tmp_path: Path
) -> None:
    from eigenbank.loaders.pipelines import open_pipeline
    from eigenbank.schemas.errors import SourceError

    folder = Path(shutil.copytree(faces.FOLDER, tmp_path / "model"))
    (file,) = (folder / part).glob("*config.json")
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **changes}))
    with pytest.raises(SourceError, match=r"asks for a \w+ of \d+, and at most"):
        open_pipeline(folder)
