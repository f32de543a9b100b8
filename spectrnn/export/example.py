"""Classifies a recording: python example.py recording.wav (default: a golden clip)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile

folder = Path(__file__).parent
model = onnxruntime.InferenceSession(folder / "model.onnx")
metadata = json.loads(model.get_modelmeta().custom_metadata_map["spectrnn"])
recording = sys.argv[1] if len(sys.argv) > 1 else min(folder.glob("golden/*.wav"))
samples, sample_rate = soundfile.read(recording, dtype="float32", always_2d=True)
if sample_rate != metadata["sample_rate"]:
    sys.exit(f"{recording}: has {sample_rate} Hz; resample it to {metadata['sample_rate']} Hz")
inputs = {"waveform": samples.mean(1)[None], "lengths": np.array([len(samples)], dtype=np.int64)}
probabilities = model.run(["probabilities"], inputs)[0][0]
for index in (-probabilities).argsort()[:3]:
    print(f"{probabilities[index]:.4f}  {metadata['labels'][index]}")
