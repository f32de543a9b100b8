// Results as files: probabilities of all windows as CSV, and the events of a recording as a label track of Audacity.

/**
 * A row per window. `recordings`: `name` and `results`, the probabilities (classes,) of each window in `spans`, its start
 * and end in s.
 */
export function toCSV(recordings, model) {
  const rows = [["file", "start", "end", "label", "probability", ...model.labels]];
  for (const { name, spans, results } of recordings) {
    results.forEach((probabilities, index) => {
      const { label, probability } = model.verdict(probabilities);
      rows.push([name, ...spans[index].map(seconds), label, ...[probability, ...probabilities].map((p) => p.toFixed(6))]);
    });
  }
  return rows.map((row) => `${row.map(quote).join(",")}\r\n`).join("");
}

/** A line per event, as `spectrnn predict format=audacity` writes it. */
export function toAudacity(recording, model) {
  return findEvents(recording, model).map(({ start, end, label }) => {
    return `${seconds(start)}\t${seconds(end)}\t${label.replace(/\s+/g, " ")}\n`;
  }).join("");
}

/**
 * Events as `spectrnn predict` detects them without smoothing: one starts when the probability of its class reaches the
 * threshold, and ends when it falls below a fraction of it.
 */
function findEvents({ spans, results }, model) {
  const events = [];
  model.labels.forEach((label, index) => {
    const threshold = model.threshold(index);
    let start = null;
    for (let step = 0; step <= results.length; step++) {
      const probability = step < results.length ? results[step][index] : -1, [begin] = spans[Math.min(step, spans.length - 1)];
      const end = step < results.length ? begin : spans.at(-1)[1];
      if (start !== null && probability < threshold * model.offset_ratio) {
        if (end - start >= model.min_event_seconds) events.push({ start, end, label });
        start = null;
      }
      if (start === null && probability >= threshold) start = begin;
    }
  });
  return events.sort((a, b) => a.start - b.start || a.end - b.end);
}

/** Offers a text to save as a file. */
export function save(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function seconds(time) {
  return time.toFixed(6);
}

function quote(value) {
  return /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}
