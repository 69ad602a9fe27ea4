"""Find a model by name or folder, or in what holds it, with its processor; load safely: safetensors, no code unasked for.

Every way in which that fails becomes one sentence. Weights that the checkpoint lacks are an error, not a random head.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from regard.errors import InputError, Misuse, ModelError, RegardError, nearest
from regard.kinds import fits
from regard.models import embeddings, sounds
from regard.models.adapters import Adapter, adapter_in
from regard.models.checkpoint import ADAPTER, CONVERT, Checkpoint
from regard.models.generate import can_write
from regard.models.holders import Preprocessors, embeds_sentences, take_apart
from regard.models.places import is_name, place
from regard.models.reading import Kind
from regard.models.regions import takes_regions
from regard.models.texts import pad_id


@dataclass(frozen=True)
class Task:
    """A kind of head: the Auto class that loads it, the endings of its architectures' names, what it reads.

    table: Transformers' own table of its models, where their names end like those of others.
    auto: "" where there is none, and the architecture's own class loads it.
    """

    auto: str
    endings: tuple[str, ...]
    kind: Kind
    table: str = ""


TASKS = {
    "image-classification": Task(
        "AutoModelForImageClassification", ("ForImageClassification", "ForImageClassificationWithTeacher"), "image"
    ),
    "text-classification": Task("AutoModelForSequenceClassification", ("ForSequenceClassification",), "text"),
    "token-classification": Task("AutoModelForTokenClassification", ("ForTokenClassification",), "text"),
    "question-answering": Task("AutoModelForQuestionAnswering", ("ForQuestionAnswering",), "text"),
    "masked-lm": Task("AutoModelForMaskedLM", ("ForMaskedLM",), "text"),
    "causal-lm": Task("AutoModelForCausalLM", ("ForCausalLM", "LMHeadModel"), "text"),
    "seq2seq-lm": Task("AutoModelForSeq2SeqLM", ("ForConditionalGeneration", "MarianMTModel"), "text"),
    "image-text-to-text": Task("AutoModelForImageTextToText", (), "image-text", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING"),
    "visual-question-answering": Task(
        "AutoModelForVisualQuestionAnswering", (), "image-text", "MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING"
    ),
    "image-text-similarity": Task(
        "AutoModelForZeroShotImageClassification",
        (),
        "image-text",
        "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING",
    ),
    "image-text-matching": Task("", ("ForImageTextRetrieval", "ForImageAndTextRetrieval"), "image-text"),
    "region-question-answering": Task("", ("LxmertForQuestionAnswering",), "regions-text"),
    "object-detection": Task("AutoModelForObjectDetection", (), "image", "MODEL_FOR_OBJECT_DETECTION_MAPPING"),
    "embedding": Task("AutoModel", (), "embedding"),
    "audio-classification": Task(
        "AutoModelForAudioClassification", (), "sound", "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING"
    ),
    "speech-to-text": Task("AutoModelForSpeechSeq2Seq", (), "sound", "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING"),
    "speech-recognition": Task("AutoModelForCTC", (), "sound", "MODEL_FOR_CTC_MAPPING"),
}
SHARED = ("cache_dir", "force_download", "local_files_only", "proxies", "subfolder", "token")
LIBRARIES = {"Torchvision": "torchvision", "SentencePiece": "sentencepiece", "protobuf": "protobuf", "scipy": "scipy"}


@dataclass(frozen=True)
class Loaded:
    """A model and what reads raw inputs for it; the folder (or the name on the hub) that it came from, if it did; and notes."""

    model: nn.Module
    processor: Any
    kind: Kind
    folder: str | None = None
    notes: tuple[str, ...] = ()


def by_name(
    name: str | os.PathLike[str],
    processor: Any,
    task: str | None,
    options: dict[str, Any],
    from_pretrained: dict[str, Any],
    allow_missing: bool,
    pooling: str | None,
) -> Loaded:
    """Load a model from a folder or from the hub. `options`: trust_remote_code and revision. Raises as `regard.load` does."""
    _check_task(task)
    shared = options | {key: from_pretrained[key] for key in SHARED if key in from_pretrained}
    transformers = _transformers()
    with _quiet(transformers):
        adapter = adapter_in(name)
        name = place(name if adapter is None else adapter.base)
        files = Checkpoint(name, shared)
        config = _config(transformers, name, shared)
        chain = files.json("modules.json")
        found = _task_of(transformers, config, name, task or (adapter.task if adapter else None), chain)
        given = options | from_pretrained | (adapter.classes if adapter else {})
        model = _model(transformers, files, found, config, given, allow_missing, adapter)
        source = processor if processor is not None else name if adapter is None else adapter.reads
        loaded = _processor(transformers, source, found.kind, shared)
    notes: list[str] = []
    if found.kind == "embedding":
        model, notes = _embedder(files, model.eval(), chain, pooling)
        loaded = _shortened(files, loaded)
    elif pooling is not None:
        raise Misuse(f"pooling= is for models that make vectors of texts; {type(model).__name__} has a head")
    if found.kind == "text":
        _give_padding(model, loaded)
    return Loaded(model.eval(), loaded, found.kind, name, tuple(notes))


def around(given: Any, processor: Any, task: str | None, options: dict[str, Any], pooling: str | None) -> Loaded:
    """A module that the user built, or what holds one, with its processor: it is not changed, not even its mode."""
    _check_task(task)
    shared = {key: options[key] for key in ("trust_remote_code", "revision", *SHARED) if key in options}
    model, processor = take_apart(given, processor)
    if processor is None:
        raise InputError(f"{type(model).__name__} was given without a processor; pass processor= (or its folder) too")
    kind = _kind_of(model, processor, task, pooling)
    if is_name(processor):
        transformers = _transformers()
        with _quiet(transformers):
            processor = _processor(transformers, processor, kind, shared)
    elif kind == "image-text" and isinstance(processor, Preprocessors):
        processor = _joined(model, processor)
    notes: list[str] = []
    if isinstance(model, nn.Sequential) and embeds_sentences(model):
        model = embeddings.of_sentence_transformer(model)
    elif kind == "embedding":
        model, notes = embeddings.of_module(model, pooling)
    return Loaded(model, _part(processor, kind), kind, notes=tuple(notes))


def _check_task(task: str | None) -> None:
    """Raise UnknownName for a task that there is not."""
    if task is not None and task not in TASKS:
        raise nearest(task, TASKS, "task")


def _kind_of(model: nn.Module, processor: Any, task: str | None, pooling: str | None) -> Kind:
    """What a module reads, by the task where it is said, else by the module and its processor."""
    if embeds_sentences(model):
        return "embedding"
    if task is not None:
        return TASKS[task].kind
    if _part_of(processor, "image_processor") and _part_of(processor, "tokenizer") and _reads_both(model):
        return "image-text"
    if takes_regions(model):
        return "regions-text"
    if sounds.hears(model, processor):
        return "sound"
    if pooling is not None or (embeddings.is_headless(model) and not _part_of(processor, "image_processor")):
        return "embedding"
    if is_name(processor) or _part_of(processor, "image_processor"):
        return "image" if getattr(model, "main_input_name", "") == "pixel_values" else "text"
    return "text" if _is_tokenizer(processor) else "image"


def _part_of(processor: Any, name: str) -> bool:
    return getattr(processor, name, None) is not None


def _joined(model: nn.Module, parts: Preprocessors) -> Any:
    """The processor that Transformers has for a model of pictures and texts, made of its parts."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    kind = type(getattr(model, "config", None))
    if kind not in PROCESSOR_MAPPING:
        raise InputError(f"the processor of {type(model).__name__} is stored in parts; pass processor=")
    with _failing_as(InputError, f"the processor of {type(model).__name__} cannot be made"):
        return PROCESSOR_MAPPING[kind](image_processor=parts.image_processor, tokenizer=parts.tokenizer)


def _embedder(
    files: Checkpoint, model: nn.Module, chain: Any, pooling: str | None
) -> tuple[embeddings.Embedder, list[str]]:
    """A model that was loaded without a head, with the pooling that is asked for, else that of its folder."""
    if pooling is None and embeddings.is_saved_chain(chain):
        with _failing_as(ModelError, f"the embedding model {files.name!r} cannot be loaded"):
            return embeddings.of_folder(model, chain, files.find), []
    return embeddings.of_module(model, pooling)


def _shortened(files: Checkpoint, tokenizer: Any) -> Any:
    """A tokenizer that we loaded, which takes no more tokens of a text than sentence-transformers would read."""
    said = files.json("sentence_bert_config.json")
    most = said.get("max_seq_length") if isinstance(said, dict) else None
    if isinstance(most, int) and 0 < most < tokenizer.model_max_length:
        tokenizer.model_max_length = most
    return tokenizer


def _reads_both(model: nn.Module) -> bool:
    """Whether a model reads pictures and texts, or writes a text."""
    return can_write(model) or {"pixel_values", "input_ids"} <= set(inspect.signature(model.forward).parameters)


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as e:
        if e.name != "transformers":
            raise
        raise ModelError('models are loaded with Transformers, which is missing; pip install "regard[hf]"') from None
    return transformers


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep Transformers' bars and load reports off the screen (what matters in them becomes an error).

    Bars of downloads, which can take minutes, stay as they are.
    """
    log, hub = transformers.utils.logging, logging.getLogger("huggingface_hub")
    level, hub_level = log.get_verbosity(), hub.level
    bars, downloads = log.is_progress_bar_enabled(), log.hf_hub_utils
    follow = (
        downloads.disable_progress_bars if downloads.are_progress_bars_disabled() else downloads.enable_progress_bars
    )
    log.set_verbosity_error()
    log.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    follow()
    try:
        yield
    finally:
        log.set_verbosity(level)
        hub.setLevel(hub_level)
        if bars:
            log.enable_progress_bar()
        follow()


@contextmanager
def _failing_as(kind: type[RegardError], said: str) -> Iterator[None]:
    """Turn what Transformers raises into one sentence: `said`, and the first line of its reason."""
    try:
        yield
    except RegardError:
        raise
    except Exception as e:
        reason = _reason(e)
        if "trust_remote_code" in str(e):
            reason = "it runs Python code of its own; read that code, and pass trust_remote_code=True if you trust it"
        if library := _library(e):
            raise ModelError(f"{said.partition(' (')[0]}: it needs {library}") from e
        raise kind(f"{said}: {reason}") from e


def _reason(e: BaseException) -> str:
    """Say in one line why a file could not be had."""
    text = str(e)
    if "couldn't connect" in text or "offline mode" in text or "outgoing traffic" in text:
        return "there is no such folder here, and the Hugging Face hub cannot be reached; give a local folder"
    if "not a valid model identifier" in text or "is not a local folder" in text:
        return "there is no such folder here, nor such a model on the Hugging Face hub (a private one needs token=)"
    return (text.strip().splitlines() or [type(e).__name__])[0].rstrip(".")


def _library(e: BaseException) -> str:
    """The library that something is missing, in words; "" where that is not what went wrong."""
    found = re.search(r"requires the (?:🤗 )?(.+?) library,? but it was not found", str(e))
    if found is None:
        return ""
    known = LIBRARIES.get(found[1])
    return f"{found[1]}, which is not installed" + (f" (pip install {known})" if known else "")


def _config(transformers: Any, name: str, shared: dict[str, Any]) -> Any:
    with _failing_as(InputError, f"the model {name!r} cannot be loaded"):
        config = transformers.AutoConfig.from_pretrained(name, **shared)
    if not fits(getattr(config, "architectures", None), list[str] | None):
        raise InputError(
            f"the model {name!r} is damaged: what its config.json has as architectures is no list of names"
        )
    return config


def _task_of(transformers: Any, config: Any, name: str, task: str | None, chain: Any) -> Task:
    """The task that is asked for, else what the checkpoint says of itself."""
    if task is not None:
        return TASKS[task]
    return TASKS["embedding"] if embeddings.is_saved_chain(chain) else _task(transformers, config, name)


def _task(transformers: Any, config: Any, name: str) -> Task:
    """Tell the task from the architecture that the checkpoint was saved with."""
    architectures = list(getattr(config, "architectures", None) or [])
    for task in TASKS.values():
        table = getattr(transformers, task.table) if task.table else {}
        if type(config) in table and table[type(config)].__name__ in architectures:
            return task
    for architecture in architectures:
        endings = {e: task for task in TASKS.values() for e in task.endings if architecture.endswith(e)}
        if endings:
            return endings[max(endings, key=len)]
        if embeddings.is_headless_class(getattr(transformers, architecture, None), config):
            return TASKS["embedding"]
    found = " and ".join(architectures) or f"no architecture (model type {config.model_type!r})"
    raise ModelError(
        f"{name!r} holds {found}, whose task is not one that Regard loads ({', '.join(TASKS)}); "
        "load a checkpoint with such a head, say task=, or pass your own module with processor="
    )


def _model(
    transformers: Any,
    files: Checkpoint,
    task: Task,
    config: Any,
    options: dict[str, Any],
    allow_missing: bool,
    adapter: Adapter | None = None,
) -> nn.Module:
    """Load the weights, from safetensors unless told otherwise; refuse what would be left random."""
    options = {"use_safetensors": True, "ignore_mismatched_sizes": True} | options
    name = files.name
    if options["use_safetensors"]:
        _check(files, config, options)
    with _failing_as(ModelError, f"the weights of {name!r} cannot be loaded"):
        try:
            made = _class(transformers, task, config, name, options)
            model, info = made.from_pretrained(name, output_loading_info=True, **options)
        except OSError as e:
            if "safetensors" in str(e) and options["use_safetensors"]:
                raise ModelError(_no_safetensors(name)) from e
            raise
        if adapter is not None:
            model = adapter.put_on(model)
    random = {*info["missing_keys"], *(str(key[0]) for key in info["mismatched_keys"])}
    random -= set(adapter.supplied) if adapter is not None else set()
    random = {key for key in random if task.kind != "embedding" or "pooler" not in key}  # no vector is made by it
    if random and not allow_missing:
        shown = ", ".join(sorted(random)[:4]) + (f" and {len(random) - 4} more" if len(random) > 4 else "")
        raise ModelError(
            f"{name!r} lacks weights of {type(model).__name__} (missing, or of another shape): {shown}; they would be "
            "random, so load a checkpoint trained for this task, or pass allow_missing=True"
        )
    assert isinstance(model, nn.Module)
    return model


def _check(files: Checkpoint, config: Any, options: dict[str, Any]) -> None:
    """Refuse files that lead to pickles before anything is opened."""
    if options.get("gguf_file") is None:
        files.check_weights(config, options.get("variant"))
    if files.find(ADAPTER) is not None:  # beside a model: Transformers puts it on
        files.check_adapter()


def _class(transformers: Any, task: Task, config: Any, name: str, options: dict[str, Any]) -> Any:
    """What loads the weights: the task's Auto class, else the architecture's own, as for an encoder that makes vectors."""
    if task.kind == "embedding":
        saved = [getattr(transformers, a, None) for a in getattr(config, "architectures", None) or ()]
        alone = type(config).__name__.removesuffix("Config") + "EncoderModel"
        headless = [made for made in saved if embeddings.is_headless_class(made, config)]
        beside = [getattr(transformers, alone, None)] if getattr(config, "is_encoder_decoder", False) else []
        return next((made for made in headless + beside if made is not None), transformers.AutoModel)
    return getattr(transformers, task.auto or _architecture(transformers, name, options))


def _architecture(transformers: Any, name: str, options: dict[str, Any]) -> str:
    """The class that a checkpoint was saved from, where no Auto class loads it."""
    shared = {key: options[key] for key in (*SHARED, "revision", "trust_remote_code") if key in options}
    for architecture in transformers.AutoConfig.from_pretrained(name, **shared).architectures or ():
        if hasattr(transformers, architecture):
            return str(architecture)
    raise ModelError(f"{name!r} names no architecture that Transformers has; pass your own module with processor=")


def _no_safetensors(name: str) -> str:
    folder = Path(name)
    if folder.is_dir() and not any(folder.glob("*.bin")) and not any(folder.glob("*.pt*")):
        return f"{name!r} holds no weights (model.safetensors); save the model there with save_pretrained"
    return f"{name!r} has no safetensors, only pickled weights, which can run any code when opened; {CONVERT}"


def _processor(transformers: Any, source: Any, kind: Kind, shared: dict[str, Any]) -> Any:
    """Load, or take out of what was given, the image processor or tokenizer."""
    if not is_name(source):
        return _part(source, kind)
    name = place(source) if not Path(source).is_dir() else os.fspath(source)
    if kind == "sound":
        return _hearing(transformers, name, shared)
    what, auto = {
        "image": ("image processor", transformers.AutoImageProcessor),
        "text": ("tokenizer", transformers.AutoTokenizer),
        "image-text": ("processor", transformers.AutoProcessor),
        "regions-text": ("tokenizer", transformers.AutoTokenizer),
        "embedding": ("tokenizer", transformers.AutoTokenizer),
    }[kind]
    with _failing_as(InputError, f"the {what} of {name!r} cannot be loaded (pass processor= if it lies elsewhere)"):
        loaded = auto.from_pretrained(name, **shared)
    if kind in ("text", "regions-text", "embedding") and not set(loaded.get_vocab()) - set(loaded.all_special_tokens):
        raise InputError(f"{name!r} has no tokenizer files; pass processor= with its tokenizer, or save it there")
    return _part(loaded, kind)


def _hearing(transformers: Any, name: str, shared: dict[str, Any]) -> Preprocessors:
    """The feature extractor of a model of sound, and the tokenizer of one that writes, if there is one."""
    with _failing_as(
        InputError, f"the feature extractor of {name!r} cannot be loaded (pass processor= if it lies elsewhere)"
    ):
        extractor = transformers.AutoFeatureExtractor.from_pretrained(name, **shared)
    tokenizer = None
    if Checkpoint(name, shared).find("tokenizer_config.json") is not None:
        with _failing_as(
            InputError, f"the tokenizer of {name!r} cannot be loaded (pass processor= if it lies elsewhere)"
        ):
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **shared)
    return Preprocessors(tokenizer=tokenizer, feature_extractor=extractor)


def _part(processor: Any, kind: Kind) -> Any:
    """Take the image processor or tokenizer out of a processor that holds several, and check that it is one.

    A vision-language model needs both, and the processor that joins them.
    """
    if kind == "image-text":
        if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
            raise InputError(f"{type(processor).__name__} does not hold an image processor and a tokenizer")
        return processor
    if kind == "sound":
        if sounds.extractor_of(processor) is None:
            raise InputError(f"{type(processor).__name__} holds no feature extractor, which a model of sound needs")
        whole = getattr(processor, "feature_extractor", None) is not None
        return processor if whole else Preprocessors(feature_extractor=processor)
    part = getattr(processor, "image_processor" if kind == "image" else "tokenizer", None)
    part = processor if part is None else part
    if (kind != "image") != _is_tokenizer(part) or not callable(part):
        raise InputError(
            f"{type(part).__name__} cannot read a {'picture' if kind == 'image' else 'text'} for the model"
        )
    return part


def _give_padding(model: nn.Module, tokenizer: Any) -> None:
    """Let a decoder's classifier that we loaded know the padding, which it finds the last token by in a batch."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "pad_token_id") and config.pad_token_id is None:
        config.pad_token_id = pad_id(tokenizer)


def _is_tokenizer(processor: Any) -> bool:
    return hasattr(processor, "convert_ids_to_tokens")
