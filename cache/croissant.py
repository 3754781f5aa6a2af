"""croissant.json: what a shared store says of itself to machines.

JSON-LD after MLCommons Croissant 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html).
Croissant has no way into HDF5, so parts are files without records.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from interp.cache.share_card import TAGS, Shared, stated_license
from interp.cache.share_files import USAGE_NAME, SharedFile
from interp.cache.tiers import LEAKS


def croissant(shared: Shared) -> str:
    """The text of croissant.json."""
    model = shared.provenance.get("model", "an unnamed model")
    document: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": re.sub(r"[^A-Za-z0-9_-]", "-", shared.name),
        "description": f"Routing of {model}, stored by moe-interp. {LEAKS[shared.tier]}",
        "url": shared.address,
        "license": stated_license(shared) or "unknown",
        "datePublished": shared.created,
        "version": "1.0.0",
        "keywords": list(TAGS),
        "distribution": [_file_object(each) for each in shared.files],
    }
    if shared.tier == "aggregate":
        document["recordSet"] = [_usage_records()]
    document = {name: value for name, value in document.items() if value is not None}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _file_object(file: SharedFile) -> dict[str, Any]:
    suffix = file.name.rpartition(".")[2]
    formats = {"h5": "application/x-hdf5", "json": "application/json", "csv": "text/csv"}
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "contentUrl": file.name,
        "contentSize": f"{file.bytes} B",
        "encodingFormat": formats[suffix],
        "sha256": file.sha256,
    }


def _usage_records() -> dict[str, Any]:
    types = {"layer": "sc:Integer", "expert": "sc:Integer", "count": "sc:Integer"}
    columns = ("prompt", "item", "condition", "source", "layer", "expert", "count")
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"usage/{name}",
            "name": name,
            "dataType": types.get(name, "sc:Text"),
            "source": {"fileObject": {"@id": USAGE_NAME}, "extract": {"column": name}},
        }
        for name in columns
    ]
    return {"@type": "cr:RecordSet", "@id": "usage", "name": "usage", "field": fields}


_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
