"""Japanese vowels (640 utterances of 12 cepstral channels and unequal length, in aeon's wheel): who speaks?"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from packages import from_pypi  # noqa: E402  (the folder above holds it)


def read_ts(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Series (channels, time) and labels of a .ts file: channels split by colons, the label last."""
    series, labels = [], []
    for line in path.read_text().splitlines():
        if line and line[0] not in "@#%":
            *channels, label = line.split(":")
            series.append(np.array([[float(v) for v in c.split(",")] for c in channels], np.float32))
            labels.append(label.strip())
    return series, labels


def main() -> None:
    data = HERE / "data"
    folder = "aeon/datasets/data/JapaneseVowels/JapaneseVowels_"
    parts = [read_ts(p) for p in from_pypi("aeon==1.6.0", [f"{folder}TRAIN.ts", f"{folder}TEST.ts"], data)]
    series = parts[0][0] + parts[1][0]
    labels = np.array(parts[0][1] + parts[1][1])
    length = np.array([s.shape[1] for s in series])
    padded = np.zeros((len(series), 12, length.max()), np.float32)
    for row, one in enumerate(series):
        padded[row, :, : one.shape[1]] = one
    rng = np.random.default_rng(0)
    split = rng.choice(["train", "val", "test"], size=len(series), p=[0.5, 0.15, 0.35])
    np.savez(data / "vowels.npz", series=padded, length=length, speaker=labels, split=split)
    sys.path.append(str(HERE / "speakers"))
    from training import train_teacher

    train_teacher(data)


if __name__ == "__main__":
    main()
