"""What a stage reports reads the same on a terminal and on a card; files of this machine stay off the card."""

from pathlib import Path

from dermgen.blocks import Picture, Table, Text, Warning, counted, for_card, for_terminal, interval, number

BLOCKS = [
    Warning("few images", example="ISIC_1"),
    Text("Scores", "heading"),
    Text("FID of few images is unreliable", "note"),
    Text("3 of 9 are copies.", "verdict"),
    Table(["class", "n"], [["mel|nv", "12"], ["df", "3"]], main=[0]),
]


def test_a_table_stands_in_columns_with_numbers_to_the_right():
    lines = for_terminal(BLOCKS[4:]).strip().splitlines()
    assert lines == ["class    n", "mel|nv  12", "df       3"]


def test_a_card_is_markdown_whose_cells_keep_their_bars():
    assert for_card(BLOCKS) == (
        "**Few images.**\n\n### Scores\n\nNote: FID of few images is unreliable.\n\n**3 of 9 are copies.**\n\n| class | n |\n| --- | --- |\n| mel\\|nv | 12 |\n| df | 3 |"
    )


def test_a_terminal_tells_warnings_from_notes():
    assert for_terminal(BLOCKS[:3]).splitlines() == [
        "warning: few images (for example ISIC_1)", "Scores", "note: FID of few images is unreliable",
    ]  # fmt: skip


def test_examples_and_pictures_are_shown_here_and_not_published(tmp_path: Path):
    (tmp_path / "a.png").touch()
    blocks = [*BLOCKS, Picture(tmp_path / "a.png", "Closest"), Picture(tmp_path / "missing.png", "Missing")]
    assert "(for example ISIC_1)" in for_terminal(blocks)
    assert f"Closest: {tmp_path / 'a.png'}" in for_terminal(blocks)
    assert "Missing" not in for_terminal(blocks)
    assert for_card(blocks) == for_card(BLOCKS)
    assert "ISIC_1" not in for_card(blocks)


def test_numbers_have_three_digits_and_counted_nouns_agree_with_their_number():
    assert [number(v) for v in (None, 0.12345, 12.345, 999.4, 1234.5)] == ["–", "0.123", "12.3", "999", "1,234"]
    assert interval(0.5, None) == "0.5 to –"
    assert [counted(n, "image") for n in (0, 1, 1000)] == ["0 images", "1 image", "1,000 images"]
    assert counted(2, "image has", "images have") == "2 images have"
