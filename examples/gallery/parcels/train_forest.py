"""Trains a random forest of scikit-learn, and writes it with its preparation as one graph, forest.onnx."""

from data import CARRIERS, parcels
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

features, late = parcels(4000, seed=0)
pipeline = make_pipeline(
    make_column_transformer(
        (SimpleImputer(strategy="median"), [0, 1, 2]),
        (OneHotEncoder(categories=[range(len(CARRIERS))], handle_unknown="ignore"), [3]),
    ),
    RandomForestClassifier(20, max_depth=7, random_state=0),
).fit(features, late)
model = to_onnx(
    pipeline,
    initial_types=[("parcels", FloatTensorType([None, features.shape[1]]))],
    options={id(pipeline): {"zipmap": False}},
    target_opset={"": 17, "ai.onnx.ml": 3},
)
with open("forest.onnx", "wb") as file:
    file.write(model.SerializeToString(deterministic=True))
