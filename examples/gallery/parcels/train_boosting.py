"""Trains trees of LightGBM, which know categories and missing numbers, and writes them as boosting.onnx."""

import lightgbm
from data import parcels
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

features, late = parcels(4000, seed=0)
trees = lightgbm.LGBMClassifier(n_estimators=60, num_leaves=15, random_state=0, deterministic=True, n_jobs=1)
trees.fit(features, late, categorical_feature=[3])
# For XGBoost, this is convert_xgboost of the same package.
model = convert_lightgbm(trees, initial_types=[("parcels", FloatTensorType([None, features.shape[1]]))], zipmap=False)
with open("boosting.onnx", "wb") as file:
    file.write(model.SerializeToString(deterministic=True))
