"""Whatever optional part is missing, the error names the command that installs it."""

import subprocess
import sys

import pytest

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from dnnamo.errors import MissingExtra
try:
    {statement}
except MissingExtra as error:
    print(error.extra, error.exit_code, str(error))
"""

CASES = {
    "demo on PyTorch": (["torch"], "from dnnamo.loaders import load; load('demo:mlp', {})", "torch"),
    "demo on TensorFlow": (["tensorflow"], "from dnnamo.loaders import load; load('demo:keras_mlp', {})", "tensorflow"),
    "wrapper for PyTorch": (["torch"], "import dnnamo.frameworks.pytorch", "torch"),
    "wrapper for Keras": (["tensorflow"], "import dnnamo.frameworks.tensorflow", "tensorflow"),
    "wrapper for ONNX": (["onnxruntime"], "import dnnamo.frameworks.onnxruntime", "onnx"),
    "ONNX file": (
        ["onnx"],
        "from dnnamo.loaders import load; load(f'onnx:{__import__(\"sys\").executable}', {})",
        "onnx",
    ),
    "transformers": (
        ["transformers"],
        "from dnnamo.loaders import load; load('transformers:bert', {})",
        "transformers",
    ),
    "torchvision": (
        ["torchvision"],
        "from dnnamo.loaders import load; load('torchvision:resnet18', {})",
        "torchvision",
    ),
    "timm": (["timm"], "from dnnamo.loaders import load; load('timm:resnet18', {})", "timm"),
    "keras.applications": (["tensorflow"], "from dnnamo.loaders import load; load('keras:ResNet50', {})", "tensorflow"),
    "KerasHub": ([], "from dnnamo.loaders import load; load('keras:bert_base_en', {})", "keras-hub"),
    "worker": (["celery"], "import dnnamo_workers.worker", "worker"),
    "submitting to a broker": (["redis"], "import dnnamo_workers.hinted", "worker"),
    "PostgreSQL": (["psycopg"], "import dnnamo_storage as s; s.open_engine('postgresql://h/d')", "postgres"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_missing_part_is_named_with_the_command_that_installs_it(case: str) -> None:
    blocked, statement, extra = CASES[case]
    code = WITHOUT.format(blocked=blocked, statement=statement)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{extra} 2 ")
    assert f"pip install 'dnnamo[{extra}]'" in said
