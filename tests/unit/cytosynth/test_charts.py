"""Charts are well-formed SVG, whatever classes are called."""

from __future__ import annotations

from xml.etree import ElementTree

from cytosynth.charts import confusion_svg


def test_confusion_matrix_names_every_class_and_tells_hits_from_misses() -> None:
    rows, columns = ["a<b", "c"], ["a<b", "c", "none of these, whatever it is"]
    drawn = confusion_svg(rows, columns, [[3, 1, 0], [0, 2, 0]], str.upper, "taken for")
    root = ElementTree.fromstring(drawn)
    texts = [node.text for node in root.iter("text")]
    assert texts.count("A<B") == 2 and "NONE OF THESE, WHAT…" in texts
    titles = [node.text for node in root.iter("title")]
    assert titles[:2] == ["A<B taken for A<B: 3 of 4", "A<B taken for C: 1 of 4"]
    tones = [node.get("class") for node in root.iter("rect")]
    assert tones == ["hit", "miss", "miss", "miss", "hit", "miss"]
    assert "style" not in root.attrib
    wide = confusion_svg(rows, columns, [[0] * 3] * 2, str, "called", scrolls=True)
    assert "min-width" in ElementTree.fromstring(wide).attrib["style"]
