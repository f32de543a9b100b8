"""Classifies a recording: python example.py recording.wav (default: a golden clip)."""

import json
import sys
from pathlib import Path

try:
    import numpy as np
    import onnxruntime
    import soundfile
except (ImportError, OSError) as error:
    sys.exit(f"{error}; pip install numpy onnxruntime soundfile")

folder = Path(__file__).resolve().parent
if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
    sys.exit(__doc__)
recording = Path(sys.argv[1]) if sys.argv[1:] else min(folder.glob("golden/*.wav"), default=folder / "golden")
for path in (folder / "model.onnx", recording):
    if not path.is_file():
        sys.exit(f"{path}: no such file")
try:
    model = onnxruntime.InferenceSession(folder / "model.onnx")
    metadata = json.loads(model.get_modelmeta().custom_metadata_map["spectrnn"])
except Exception as error:
    sys.exit(f"{folder / 'model.onnx'}: cannot be loaded ({error})")
try:
    samples, sample_rate = soundfile.read(recording, dtype="float32", always_2d=True)
except (OSError, soundfile.SoundFileError) as error:
    sys.exit(f"{recording}: cannot be read ({error})")
if sample_rate != metadata["sample_rate"]:
    sys.exit(f"{recording}: has {sample_rate} Hz; resample it to {metadata['sample_rate']} Hz")
if not len(samples):
    sys.exit(f"{recording}: contains no audio")

inputs = {"waveform": samples.mean(1)[None], "lengths": np.array([len(samples)], dtype=np.int64)}
probabilities = model.run(["probabilities"], inputs)[0][0]
thresholds = metadata["thresholds"] or [2.0] * len(probabilities)  # of classes that may sound together
for index in (-probabilities).argsort()[:3]:
    mark = "  detected" if probabilities[index] >= thresholds[index] else ""
    print(f"{probabilities[index]:.4f}  {metadata['labels'][index]}{mark}")
