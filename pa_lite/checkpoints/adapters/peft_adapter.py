"""Open a LoRA adapter that the package peft wrote: adapter_config.json and adapter_model.safetensors.

What each stored name means, and how it changes the base, follows peft 0.21: `LoraModel`, `ModulesToSaveWrapper` and
`TrainableTokensWrapper`. The result has the tensors of `merge_and_unload`, except where the base ties its output matrix
to the embedding: there each of the two gets the changes that it was trained with, so that the result computes what the
adapter computed before the merge. peft's merge adds both changes to the one tied matrix.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pa_lite.checkpoints.adapters.changed_model import ChangedModel
from pa_lite.checkpoints.adapters.lora_settings import LoraSettings, read_lora_settings
from pa_lite.checkpoints.adapters.module_changes import ModuleChanges, StoredModule, stored_source
from pa_lite.checkpoints.adapters.names import EMBEDDING, OUTPUT, best_family, destinations, knows
from pa_lite.checkpoints.adapters.tokenizer import vocabulary_loader
from pa_lite.checkpoints.checkpoint import Checkpoint, NewRows
from pa_lite.checkpoints.families.family import Family
from pa_lite.checkpoints.generation_config import sampling_metadata
from pa_lite.checkpoints.hf import Converter, check_links, model_name
from pa_lite.checkpoints.locations import ADAPTER_WEIGHTS, PICKLES
from pa_lite.checkpoints.model_card import describe_origin
from pa_lite.checkpoints.safetensors_file import StoredTensor, read_header
from pa_lite.checkpoints.weight_files import listed
from pa_lite.errors import CheckpointError
from pa_lite.system.byte_source import ByteSource

_PREFIX = "base_model.model."
# the end of a stored name -> the part of the module that it is
_PARTS = {
    ".lora_A.weight": "a", ".lora_B.weight": "b", ".lora_B.bias": "bias", ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b",
}  # fmt: skip
_TOKENS = ".token_adapter.trainable_tokens_delta"
_NESTED = ".base_layer"


@dataclass
class _Contents:
    """The tensors of an adapter's file: LoRA factors by module, complete tensors, rows of trained tokens by module.

    Where several parameters of a module have factors, their wrappers are nested; the key includes the depth.
    """

    modules: dict[tuple[str, int], StoredModule] = field(default_factory=dict)
    complete: dict[str, StoredTensor] = field(default_factory=dict)
    tokens: dict[str, StoredTensor] = field(default_factory=dict)


def open_peft_adapter(folder: Path, base: Checkpoint, elsewhere: Mapping[str, ByteSource]) -> Checkpoint:
    """Return the base with the changes of the LoRA adapter in a folder. Only headers are read.

    `elsewhere` maps names of weight files that are not in the folder to their source. The vocabulary and the chat
    template are the adapter's where its folder has them. Raises CheckpointError for an adapter that is broken, of
    another kind, or for another base.
    """
    check_links(folder)
    settings = read_lora_settings(folder)
    contents = _sort(_read(folder, elsewhere))
    names = [*contents.complete, *(f"{module}.weight" for module in contents.tokens)]
    family = best_family(base, [module for module, _ in contents.modules], names)
    if family is None:
        raise CheckpointError(
            f"{folder}: a PEFT adapter cannot be applied to {base.path}, because the names in its architecture "
            f"({base.architecture}) are unknown. Convert the adapter with llama.cpp's convert_lora_to_gguf.py."
        )
    # 1. complete tensors replace the base's, LoRA factors change them, rows of trained tokens replace single rows
    model = ChangedModel(base, folder)
    _replace_tensors(model, family, settings, contents.complete)
    changed = ModuleChanges(model=model, family=family, settings=settings, folder=folder).apply(
        list(contents.modules.values())
    )
    _replace_rows(model, family, settings, contents.tokens)
    _check_targets(base, settings, {*changed, *_names_of(family, contents.complete)}, folder)
    tensors = model.finish()
    # 2. all else is the base's, or the adapter's where its folder has it
    return replace(
        base,
        path=folder,
        name=model_name(folder.resolve()),
        metadata={**base.metadata, **sampling_metadata(folder)},
        tensors=tensors,
        load_vocabulary=vocabulary_loader(folder, base, family, tensors[EMBEDDING].rows),
        warnings=base.warnings,
        remarks=(*settings.remarks, *_other_base(base, settings)),
        is_adapter=True,
        origin=describe_origin(folder.resolve()),
    )


def _read(folder: Path, elsewhere: Mapping[str, ByteSource]) -> Mapping[str, StoredTensor]:
    file = elsewhere.get(ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
    if isinstance(file, Path) and not file.is_file():
        if pickles := sorted(path.name for path in folder.iterdir() if path.name.endswith(PICKLES)):
            raise CheckpointError(
                f"{folder}: the adapter's weights are pickles ({listed(pickles)}), which can run code and are not "
                "opened. Save them again with peft: PeftModel.from_pretrained(BASE, FOLDER).save_pretrained(NEW)."
            )
        raise CheckpointError(f"{folder}: the adapter has no {ADAPTER_WEIGHTS}. Fetch it too.")
    found = read_header(file)
    if not found:
        raise CheckpointError(f"{file}: has no tensors. Fetch the adapter again.")
    return found


def _sort(stored: Mapping[str, StoredTensor]) -> _Contents:
    """Sort an adapter's tensors by what they are. Raises CheckpointError for those that plain LoRA does not have."""
    out = _Contents()
    for name, tensor in stored.items():
        if not name.startswith(_PREFIX):
            raise CheckpointError(
                f"{tensor.path}: the name of tensor {name} does not start with {_PREFIX}, as peft's do. Save the "
                "adapter again with peft."
            )
        if ".lora_magnitude_vector" in name:
            raise CheckpointError(
                f"{tensor.path}: the adapter is DoRA ({name}), and pa-lite applies plain LoRA. Merge it with peft, and "
                "name the merged model's folder instead."
            )
        tensor.require_float()
        rest = name.removeprefix(_PREFIX)
        end = next((end for end in _PARTS if rest.endswith(end)), None)
        if end is not None:
            module, depth = rest.removesuffix(end), 0
            while module.endswith(_NESTED):
                module, depth = module.removesuffix(_NESTED), depth + 1
            out.modules.setdefault((module, depth), StoredModule(module)).parts[_PARTS[end]] = tensor
        elif rest.endswith(_TOKENS):
            out.tokens[rest.removesuffix(_TOKENS)] = tensor
        else:
            rest = rest.replace(f"{_NESTED}.", ".")
            if rest in out.complete:
                raise CheckpointError(f"{tensor.path}: tensor {rest} is stored twice. Save the adapter again.")
            out.complete[rest] = replace(tensor, name=rest)
    return out


def _names_of(family: Family, stored_names: Collection[str]) -> set[str]:
    """Return the GGUF names that stored names mean; unknown ones have none."""
    return {target.name for name in stored_names if knows(family, name) for target in destinations(family, name)}


def _matches(name: str, targets: Collection[str]) -> bool:
    """Return whether targets contain the complete name of a module, or the end of it after a dot."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _is_saved(settings: LoraSettings, stored_name: str) -> bool:
    """Return whether modules_to_save names the module of a tensor, or a module that contains it."""
    parts = stored_name.split(".")
    return any(_matches(".".join(parts[:i]), settings.modules_to_save) for i in range(1, len(parts)))


def _replace_tensors(
    model: ChangedModel, family: Family, settings: LoraSettings, complete: Mapping[str, StoredTensor]
) -> None:
    """Replace the base's tensors by the complete ones of an adapter."""
    others, token_matrices = [], []
    for name, tensor in complete.items():
        targets = destinations(family, name) if knows(family, name) else []
        if targets and targets[0].name in (EMBEDDING, OUTPUT):
            token_matrices.append((targets[0].name, tensor))
        else:
            others.append(tensor)
    authority = f"the base {model.base.path}"
    converter = Converter(path=settings.path.parent, family=family, model=model, authority=authority)
    model.replace(*converter.convert(others).values())
    # peft loads a matrix into the one that the base ties, except where modules_to_save made a copy of the module
    for name, tensor in sorted(token_matrices, key=lambda entry: _is_saved(settings, entry[1].name)):
        columns = model.tensors[name].columns
        if len(tensor.shape) != 2 or tensor.shape[1] != columns or tensor.shape[0] < 1:
            raise model.error(
                f"{tensor.name} has shape {list(tensor.shape)}, but {authority} requires {columns} columns"
            )
        is_one = model.is_tied and (settings.ties_weights or not _is_saved(settings, tensor.name))
        model.replace(*(stored_source(tensor, n) for n in ((EMBEDDING, OUTPUT) if is_one else (name,))))
    if model.base.is_gguf and model.tensors[EMBEDDING].rows != model.base.tensors[EMBEDDING].rows:
        raise CheckpointError(
            f"{model.where}: the adapter resizes the vocabulary, which needs the base as a Hugging Face folder, not as "
            "GGUF."
        )


def _replace_rows(
    model: ChangedModel, family: Family, settings: LoraSettings, tokens: Mapping[str, StoredTensor]
) -> None:
    """Replace the rows of trained tokens (trainable_token_indices)."""
    found: dict[str, NewRows] = {}
    for module, tensor in tokens.items():
        targets = destinations(family, f"{module}.weight") if knows(family, f"{module}.weight") else []
        if not targets or targets[0].name not in (EMBEDDING, OUTPUT):
            raise model.error(f"has trained tokens of {module}, which is not an embedding of the base")
        name = targets[0].name
        chosen = [rows for key, rows in settings.token_rows.items() if key and _matches(module, (key,))]
        rows = chosen[0] if chosen else settings.token_rows.get("", ()) if name == EMBEDDING else ()
        expected = (len(rows), model.tensors[name].columns)
        if tensor.shape != expected or not rows or max(rows) >= model.tensors[name].rows:
            raise model.error(
                f"{tensor.name} has shape {list(tensor.shape)}, but {settings.path.name} names {len(rows)} tokens of "
                f"{model.tensors[name].rows}, with {expected[1]} values each"
            )
        found[name] = NewRows(rows=rows, values=stored_source(tensor, name))
    # where the base ties both matrices, peft trains the rows of both together, unless they have different tokens
    if model.is_tied and EMBEDDING in found and (OUTPUT not in found or settings.ties_weights):
        found[OUTPUT] = found[EMBEDDING]
    for name, change in found.items():
        model.change(name, change)


def _check_targets(base: Checkpoint, settings: LoraSettings, changed: Collection[str], folder: Path) -> None:
    """Raise CheckpointError when the file lacks factors of modules that target_modules names.

    Targets that are patterns are not checked, nor those of a GGUF base, whose modules have other names.
    """
    if settings.has_pattern_targets or base.is_gguf:
        return
    lacking = []
    for name, source in base.tensors.items():
        module = source.stored_name.removesuffix(".weight")
        layer = re.match(r"blk\.(\d+)\.", name)
        if (
            len(source.shape) == 1
            or not _matches(module, settings.target_modules)
            or _matches(module, settings.excluded_modules)
            or _is_saved(settings, source.stored_name)
            or (settings.layers is not None and (layer is None or int(layer[1]) not in settings.layers))
        ):
            continue
        if name not in changed:
            lacking.append(module)
    if lacking:
        raise CheckpointError(
            f"{folder}: {settings.path.name} targets {listed(lacking)}, but {ADAPTER_WEIGHTS} has no factors for them. "
            "Fetch the adapter again, or save it again."
        )


def _other_base(base: Checkpoint, settings: LoraSettings) -> list[str]:
    """Return a remark if the adapter names another base than the one given."""
    named = re.split(r"[/\\]", settings.base_name.rstrip("/\\"))[-1]
    folder = base.path.resolve()
    if not named or named.lower() in (base.name.lower(), folder.name.lower(), folder.parent.name.lower()):
        return []
    return [f"{settings.path}: the adapter was trained on {settings.base_name}, and the base given is {base.name}"]
