"""Frontend: augmentation, features and normalization."""
