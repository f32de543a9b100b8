"""Metadata of a model card, the YAML at its start, as Hugging Face specifies it.

Source: https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from spectrnn.data.clips import DataSource

_HUB_DATASETS = {"SpeechCommands": "google/speech_commands"}  # by source
_HUB_METRICS = {"macro_f1": "f1"}  # names of metrics that differ there
# Identifiers of licenses there that are those of SPDX in lower case. Others are `other`, with a name.
_HUB_LICENSES = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "mpl-2.0", "unlicense", "wtfpl", "zlib", "unknown"),
    *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
    *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
}


def dataset_name(source: DataSource) -> str:
    """Returns the name that the description of a dataset begins with."""
    return re.split(r" \(|[:.;,]", source.description or "recordings", maxsplit=1)[0][:80]


def card_metadata(
    title: str, license: str, source: DataSource, is_trained_on: bool, reports: Mapping[str, Mapping[str, Any]]
) -> str:
    """Formats the metadata of a model card as YAML.

    Args:
        title: Title of the model.
        license: License of the model, preferably an SPDX identifier.
        source: Data source of the metrics.
        is_trained_on: Whether the model was trained on that dataset.
        reports: Metrics by split, from `evaluate.compute_metrics`.
    """
    name, hub_dataset = dataset_name(source), _HUB_DATASETS.get(type(source).__name__)
    is_known = license.lower() in _HUB_LICENSES
    dataset = {"name": name, "type": hub_dataset or re.sub(r"\W+", "_", name.lower()).strip("_") or "recordings"}
    results: list[dict[str, Any]] = [
        {
            "task": {"type": "audio-classification", "name": "Audio Classification"},
            "dataset": {**dataset, "split": split},
            "metrics": [
                {"type": _HUB_METRICS.get(key, key), "value": round(report[key], 4), "name": metric["title"]}
                for key, metric in report["metrics"].items()
            ],
        }
        for split, report in reports.items()
    ]
    content: dict[str, Any] = {
        **({"license": license.lower()} if is_known else {"license": "other", "license_name": license}),
        "library_name": "onnx",
        "pipeline_tag": "audio-classification",
        "tags": ["audio", "audio-classification", "onnx", "spectrnn"],
        **({"datasets": [hub_dataset]} if hub_dataset and is_trained_on else {}),
        "metrics": [*dict.fromkeys(metric["type"] for result in results for metric in result["metrics"])],
        "model-index": [{"name": title, "results": results}],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120).rstrip("\n")
