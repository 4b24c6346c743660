"""Only the families' table names families. Names that belong to formats are allowed where the format is read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pa_lite
from pa_lite.checkpoints.families.table import ARCHITECTURES, FAMILIES
from pa_lite.ggml.gguf_tables import Keys

PACKAGE = Path(pa_lite.__file__).parent
TABLE = "checkpoints/families/table.py"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).as_posix() != TABLE)
# llama.cpp itself, its functions and its programs
LLAMA_CPP = re.compile(
    r"\bollama\b|llama[-_. ](cpp|quantize|imatrix|vocab|server)\w*|LLAMA_[A-Z_]+|llama_\w*", re.IGNORECASE
)
NAMES = re.compile(
    "|".join(
        sorted(
            {re.sub(r"\d+(moe)?$", "", name).lower() for name in ARCHITECTURES}
            | {re.sub(r"(\d+(Moe)?)?For[A-Z]\w+$", "", name).lower() for name in FAMILIES}
        )
    ).replace("deci|", r"deci\b|"),  # not "decides"
    re.IGNORECASE,
)

# module -> the names that it may contain, with the format that they belong to
ALLOWED: dict[str, set[str]] = {
    # tokenizer.ggml.model
    "checkpoints/vocabulary/__init__.py": {"llama", "gpt2"},
    "checkpoints/vocabulary/tokens.py": {"llama"},
    "engine/space_prefix.py": {"llama"},
    "tasks/lm_eval/model.py": {"llama"},
    # tokenizer.ggml.model and llama.cpp's pre-tokenizers (tokenizer.ggml.pre)
    "engine/pre_tokenizers.py": {
        "deepseek-r1-qwen", "gemma4", "gpt-2", "granite-docling", "granite-embed-multi-311m", "jais", "llama-bpe",
        "llama-v3", "llama3", "olmo", "phi-2", "qwen2", "qwen35", "smollm",
    },
    "engine/vocabulary_refusals.py": {
        "llama", "gpt2", "gemma4", "llama3", "llama-v3", "llama-bpe", "granite-embed-multi-311m",
    },
    "checkpoints/vocabulary/pre_tokenizers.py": {
        "llama-bpe", "llama4", "qwen2", "qwen35", "deepseek-r1-qwen", "granite-docling", "jais", "jais-2",
        "olmo", "phi-2", "smollm", "gpt-2", "gpt-4o", "gpt3-finnish",
    },
    "checkpoints/families/family.py": {"smollm", "gpt-2"},
    # transformers' classes of tokenizers
    "checkpoints/vocabulary/space_prefix.py": {"LlamaTokenizer"},
    "checkpoints/vocabulary/special_tokens.py": {
        "LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "Qwen2Tokenizer", "GPT2Tokenizer",
        "GPTNeoXTokenizer",
    },
    # gguf's table of general.file_type
    "ggml/gguf_tables.py": {"LlamaFileType"},
    # transformers' kind of rotary scaling (rope_type), with what it computes
    "checkpoints/hf_to_gguf.py": {"llama3", "llama3_divisors"},
    "checkpoints/families/rope.py": {"llama3_divisors"},
    # names of chat formats
    "sharing/ollama_formats.py": {
        "Gemma", "Granite 3", "Llama 2 chat", "Llama 3", "Mistral instruct", "Phi-3", "Phi-4-mini", "llama",
    },
}  # fmt: skip


def spelled(path: Path) -> Iterator[str]:
    """Yield the strings, except docstrings, and the names of a module. The function `llama` loads llama.cpp."""
    tree = ast.parse(path.read_text("utf-8"))
    docstrings = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            docstrings.add(id(body[0].value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value
        words = (getattr(node, field, None) for field in ("id", "attr", "name", "arg"))
        yield from (word for word in words if isinstance(word, str) and word != "llama")


def named(path: Path) -> set[str]:
    """Return the strings and names of a module that name families."""
    return {word for word in spelled(path) if NAMES.search(LLAMA_CPP.sub("", word))}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_module_but_the_table_names_families(path: Path) -> None:
    allowed = ALLOWED.get(path.relative_to(PACKAGE).as_posix(), set())
    assert named(path) - allowed == set()


def test_allowed_names_still_occur() -> None:
    for module, allowed in ALLOWED.items():
        assert named(PACKAGE / module) == allowed, module
    assert named(PACKAGE / TABLE) > FAMILIES.keys()


@pytest.mark.parametrize("text", ['x = "Qwen2ForCausalLM"', "_PHI3 = 1", 'x = f"{y} of gemma3"', "def is_olmo(): pass"])
def test_a_module_that_names_a_family_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.py").write_text(
        f'"""About Llama."""\nimport llama_cpp\nllama_cpp.llama_decode("llama.cpp")\n{text}\n'
    )
    assert len(named(tmp_path / "x.py")) == 1


def test_every_family_has_its_architecture_in_the_table() -> None:
    for family in FAMILIES.values():
        facts = ARCHITECTURES[family.architecture]
        assert facts.epsilon in {key.name for key in family.keys}
        # a family that rotates part of a head cannot be of an architecture that rotates all of it
        assert not (facts.rotates_whole_heads and family.rotates_part)
    assert {name for name, facts in ARCHITECTURES.items() if not facts.epsilon} == {"deci", "jais2"}
    assert ARCHITECTURES["gpt2"].epsilon == Keys.Attention.LAYERNORM_EPS
