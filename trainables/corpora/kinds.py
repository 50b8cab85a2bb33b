"""The kinds of corpora there are, by name."""

from trainables.corpora import nsynth, table, tree
from trainables.corpora.layout import Kind

KINDS: dict[str, Kind] = {
    "demo": nsynth.KIND,
    "demo-genre": table.kind("genre"),
    "nsynth": nsynth.KIND,
    "gtzan": tree.GTZAN,
    "folder": tree.FOLDER,
    "csv": table.kind("label"),
}
