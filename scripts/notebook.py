"""Training, evaluation and prediction from Python, cell by cell; editors and Jupyter (with jupytext) run the cells."""

# %% Train a classifier of a few spoken words, in synthetic voices
import itertools

import soundfile

import spectrnn

run = spectrnn.train(
    ["data.words=[yes, 'no', stop]", "data.speakers=20", "data.shipped_voices=false", "trainer.epochs=3", "model=gru"]
)
print(run)
print(run.metrics["test"])
print([epoch["val"]["accuracy"] for epoch in run.history])

# %% The model: labels, sample rate, stages, parameters, accuracy
model = run.model
print(model)

# %% One recording: in a notebook with its audio and spectrogram
with (run.path / "predictions.csv").open() as file:
    header, *rows = [line.rstrip("\n").split(",") for line in file]
paths = [row[header.index("path")] for row in rows]
prediction = model.predict(paths[0])
print(prediction.label, prediction.probabilities)

# %% A waveform, with its sample rate
waveform, sample_rate = soundfile.read(paths[0], dtype="float32")
print(model.predict(waveform, sample_rate))

# %% Several recordings, as a table
table = model.predict(paths[:5])
print(table)
print(table.to_dicts()[0])

# %% Any number of recordings, in bounded memory
for prediction in itertools.islice(model.predict(iter(paths)), 3):
    print(prediction.path, prediction.label)

# %% Events in a long recording
print(model.events((waveform, sample_rate), window=0.5, hop=0.25, threshold=0.4))

# %% Evaluation on labelled recordings
evaluation = model.evaluate([(path, row[header.index("label")]) for path, row in zip(paths, rows, strict=True)])
print(evaluation.metrics)
print(evaluation)
