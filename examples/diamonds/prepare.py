"""Diamonds (54 thousand rows, in plotnine's wheel): cut from measures, price, colour and clarity.

The teacher is a gradient-boosted forest, of which only the stored outputs are handed over: a teacher of any
make can teach this way.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from packages import from_pypi  # noqa: E402  (the folder above holds it)

ROWS = 12_000  # a sample keeps the example to minutes


def main() -> None:
    data = HERE / "data"
    (source,) = from_pypi("plotnine==0.15.9", ["plotnine/data/diamonds.csv"], data)
    table = pd.read_csv(source).sample(ROWS, random_state=0).reset_index(drop=True)
    rng = np.random.default_rng(0)
    table["split"] = rng.choice(["train", "val", "test"], size=ROWS, p=[0.5, 0.2, 0.3])
    table.to_csv(data / "table.csv", index=False)
    inputs = table.drop(columns=["cut", "split"]).astype({"color": "category", "clarity": "category"})
    train = table["split"] == "train"
    forest = HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=0)
    forest.fit(inputs[train], table["cut"][train])
    np.savez(data / "teacher.npz", outputs=forest.predict_proba(inputs).astype(np.float32))
    (data / "classes.txt").write_text("\n".join(forest.classes_) + "\n")
    test = table["split"] == "test"
    print(f"teacher: test accuracy {forest.score(inputs[test], table['cut'][test]):.4f}")


if __name__ == "__main__":
    main()
