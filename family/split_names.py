"""What people call their ready-made splits; imports nothing, so that `init` stays light."""

USUAL = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
    "transfer": ("transfer",),
}  # upper and lower case alike
