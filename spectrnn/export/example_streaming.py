"""Hears a recording as a stream, packet by packet: python example.py recording.wav (without one: a golden clip)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile

folder = Path(__file__).parent
model = onnxruntime.InferenceSession(folder / "model.onnx")
facts = json.loads(model.get_modelmeta().custom_metadata_map["spectrnn"])
state = {each["name"]: np.full((1, *each["shape"]), each["fill"], np.float32) for each in facts["state"]}
recording = sys.argv[1] if len(sys.argv) > 1 else min(folder.glob("golden/*.wav"))
samples, sample_rate = soundfile.read(recording, dtype="float32", always_2d=True)
if sample_rate != facts["sample_rate"]:
    sys.exit(f"{recording}: has {sample_rate} Hz; resample it to {facts['sample_rate']} Hz")
waveform, size = samples.mean(1)[None], facts["window"]  # the first packet is a window, the others whole hops
heard = 0
while heard + size <= waveform.shape[1]:
    packet = {"waveform": waveform[:, heard : heard + size]}
    probabilities, *after = model.run(["probabilities", *(f"next_{name}" for name in state)], packet | state)
    state, heard, size = dict(zip(state, after, strict=True)), heard + size, 10 * facts["hop"]
    best = probabilities[0].argmax()
    print(f"{heard / sample_rate:.2f} s  {probabilities[0, best]:.4f}  {facts['labels'][best]}")
