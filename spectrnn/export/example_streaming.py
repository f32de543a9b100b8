"""Classifies a recording as a stream, block by block: python example.py recording.wav (default: a golden clip)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile

folder = Path(__file__).parent
model = onnxruntime.InferenceSession(folder / "model.onnx")
metadata = json.loads(model.get_modelmeta().custom_metadata_map["spectrnn"])
state = {each["name"]: np.full((1, *each["shape"]), each["fill"], np.float32) for each in metadata["state"]}
recording = sys.argv[1] if len(sys.argv) > 1 else min(folder.glob("golden/*.wav"))
samples, sample_rate = soundfile.read(recording, dtype="float32", always_2d=True)
if sample_rate != metadata["sample_rate"]:
    sys.exit(f"{recording}: has {sample_rate} Hz; resample it to {metadata['sample_rate']} Hz")
waveform, size = samples.mean(1)[None], metadata["window"]  # the first block is a window, the others are whole hops
position = 0
while position + size <= waveform.shape[1]:
    block = {"waveform": waveform[:, position : position + size]}
    probabilities, *next_state = model.run(["probabilities", *(f"next_{name}" for name in state)], block | state)
    state, position, size = dict(zip(state, next_state, strict=True)), position + size, 10 * metadata["hop"]
    best = probabilities[0].argmax()
    print(f"{position / sample_rate:.2f} s  {probabilities[0, best]:.4f}  {metadata['labels'][best]}")
