"""Classifies a recording as a stream, block by block: python example.py recording.wav (default: a golden clip)."""

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
waveform, size = samples.mean(1)[None], metadata["window"]  # the first block is a window, the others are whole hops
if waveform.shape[1] < size:
    sys.exit(f"{recording}: is shorter than the first block, {size / sample_rate:.3f} s")

state = {each["name"]: np.full((1, *each["shape"]), each["fill"], np.float32) for each in metadata["state"]}
position = 0
while position + size <= waveform.shape[1]:
    block = {"waveform": waveform[:, position : position + size]}
    probabilities, *next_state = model.run(["probabilities", *(f"next_{name}" for name in state)], block | state)
    state, position, size = dict(zip(state, next_state, strict=True)), position + size, 10 * metadata["hop"]
    best = probabilities[0].argmax()
    print(f"{position / sample_rate:.2f} s  {probabilities[0, best]:.4f}  {metadata['labels'][best]}")
