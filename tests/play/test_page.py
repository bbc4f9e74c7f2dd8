"""The playground in a real browser, served by `eigenbank play`."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import Watch
from faces import MODEL_ID as FACES
from PIL import Image
from playing import Served, named, start

if TYPE_CHECKING:
    from playwright.sync_api import Page

    Visit = Callable[..., Page]

pytestmark = pytest.mark.browser

UNLABELLED = "mid_block.attentions.0/output-value/3"


def picture(page: "Page", name: str = "edited") -> bytes:
    """The file of a picture as the page shows it."""
    source = page.locator(f"#picture-{name} img").get_attribute("src")
    assert source
    return page.request.get(source).body()


def full(page: "Page", steps: int = 20) -> None:
    """Wait until the full run is shown."""
    page.locator("#status", has_text=re.compile(rf"{steps} steps · (cached|[\d.]+ s)")).wait_for()


def other(page: "Page", than: str) -> None:
    """Wait until the edited picture has another source."""
    page.wait_for_function("than => document.querySelector('#picture-edited img').src !== than", arg=than)


def source(page: "Page") -> str:
    return str(page.evaluate("document.querySelector('#picture-edited img').src"))


def slider(page: "Page", label: str) -> str:
    """The selector of the slot that shows a label."""
    found = page.locator(".slider-row", has_text=label).first.locator("[id^=slider-]").get_attribute("id")
    return f"#{found}"


def press(page: "Page", label: str, share: float) -> None:
    """Take a slider by its middle and hold it at a share of its width, without letting go."""
    handle = page.locator(f"{slider(page, label)} input[type=range]")
    handle.hover()  # waits until it stands still: a picture that arrives above moves it down
    page.mouse.down()
    box = handle.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2, steps=4)


def test_a_drag_shows_few_steps_its_end_the_full_run_and_reset_the_first_picture_again(
    visit: "Visit", served: Served
) -> None:
    page = visit(served)
    first, begun = picture(page), source(page)
    assert first == picture(page, "unedited")
    press(page, "skin tone", 0.7)
    other(page, begun)
    page.locator("#status", has_text="8 steps · while dragging").wait_for()
    while_dragging = picture(page)
    page.mouse.up()
    full(page)
    edited = picture(page)
    assert len({first, while_dragging, edited}) == 3
    assert picture(page, "unedited") == first
    page.click("#reset")
    page.wait_for_function("than => document.querySelector('#picture-edited img').src === than", arg=begun)
    assert picture(page) == first
    assert page.input_value(f"{slider(page, 'skin tone')} input[type=number]") == "0"


def test_keys_and_the_number_field_end_in_a_full_run_too(visit: "Visit", served: Served) -> None:
    page = visit(served)
    begun = source(page)
    page.focus(f"{slider(page, 'beard')} input[type=range]")
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    other(page, begun)
    full(page)
    number = page.locator(f"{slider(page, 'beard')} input[type=number]")
    assert float(number.input_value()) > 0
    moved = source(page)
    number.fill("-1")
    number.press("Enter")
    other(page, moved)
    full(page)


def test_two_tabs_do_not_know_each_other(visit: "Visit", served: Served) -> None:
    one, two = visit(served), visit(served)
    first, begun = picture(one), source(one)
    press(one, "background hue", 0.8)
    press(two, "skin tone", 0.2)
    other(one, begun)
    other(two, begun)
    one.mouse.up()
    two.mouse.up()
    full(one)
    full(two)
    assert len({first, picture(one), picture(two)}) == 3
    two.fill("#seed input", "5")
    two.locator("#seed input").press("Enter")
    two.wait_for_function("() => document.querySelector('#picture-unedited img')")
    two.locator("#python", has_text="manual_seed(5)").wait_for()
    assert picture(two, "unedited") != first
    assert picture(one, "unedited") == first


def test_an_unknown_direction_gets_near_matches_and_a_known_one_a_slider(visit: "Visit", served: Served) -> None:
    page = visit(served)
    page.fill("#name input", "skin ton")
    page.keyboard.press("Tab")
    page.click("#add")
    said = page.locator("#add-note [role=alert]")
    said.wait_for()
    assert "did you mean 'skin tone'?" in said.inner_text()
    before = page.locator(".slider-row:visible").count()
    page.fill("#name input", UNLABELLED)
    page.keyboard.press("Enter")
    page.click("#add")
    page.locator(".slider-row", has_text=UNLABELLED).wait_for()
    assert page.locator(".slider-row:visible").count() == before + 1
    begun = source(page)
    press(page, UNLABELLED, 0.9)
    page.mouse.up()
    other(page, begun)
    full(page)
    page.locator("#python", has_text=UNLABELLED).wait_for()
    page.locator(".slider-row", has_text=UNLABELLED).locator("button").click()
    page.locator(".slider-row", has_text=UNLABELLED).wait_for(state="hidden")
    page.wait_for_function("than => document.querySelector('#picture-edited img').src === than", arg=begun)


def test_a_broken_photo_gets_a_clear_word_and_a_good_one_its_round_trip(
    visit: "Visit", served: Served, tmp_path: Path
) -> None:
    page = visit(served)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    page.click("#photo-box button")
    page.set_input_files("#upload input[type=file]", tmp_path / "broken.png")
    said = page.locator("#photo-note [role=alert]")
    said.wait_for()
    assert "cannot be read as a picture" in said.inner_text()
    assert str(tmp_path) not in said.inner_text()
    assert "/tmp" not in said.inner_text()
    Image.open(io.BytesIO(picture(page))).save(tmp_path / "face.png")
    page.set_input_files("#upload input[type=file]", tmp_path / "face.png")
    page.locator("#status", has_text="reconstruction error").wait_for()
    assert page.locator("#picture-photo img").is_visible()
    begun = source(page)
    press(page, "skin tone", 0.6)
    other(page, begun)
    page.mouse.up()
    page.locator("#status", has_text="20 steps").wait_for()
    page.locator("#python", has_text="eb.edit(pipe").wait_for()


def test_what_is_taken_along_is_what_is_shown(visit: "Visit", served: Served, tmp_path: Path) -> None:
    page = visit(served)
    begun = source(page)
    press(page, "beard", 0.7)
    page.mouse.up()
    other(page, begun)
    full(page)
    page.locator("#python", has_text="beard").wait_for()
    page.get_by_role("tab", name="Sliders (JSON)").click()
    page.locator("#json", has_text="beard").wait_for()
    with page.expect_download() as saved:
        page.locator("#json").get_by_role("link").or_(page.locator("#json [title=Download]")).first.click()
    file = tmp_path / "sliders.json"
    saved.value.save_as(file)
    found = json.loads(file.read_text(encoding="utf-8"))
    value = float(page.input_value(f"{slider(page, 'beard')} input[type=number]"))
    assert found["model"] == FACES
    assert {each["key"]: each["scale"] for each in found["sliders"] if each["scale"]} == {"beard": value}
    edited = picture(page)
    fresh = visit(served)
    fresh.get_by_role("tab", name="Sliders (JSON)").click()
    begun = source(fresh)
    with fresh.expect_file_chooser() as chooser:
        fresh.click("#load")
    chooser.value.set_files(file)
    other(fresh, begun)
    full(fresh)
    assert picture(fresh) == edited


def test_on_a_phone_the_pictures_stay_in_sight_and_cover_no_slider(visit: "Visit", served: Served) -> None:
    page = visit(served, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    pictures = page.locator("#pictures")
    last = page.locator(".slider-row:visible").last
    for way in (
        "element => element.scrollIntoView({block: 'start'})",
        "element => element.querySelector('input[type=range]').focus()",
    ):
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(100)
        last.evaluate(way)
        page.wait_for_timeout(300)
        box, under = pictures.bounding_box(), last.bounding_box()
        assert box
        assert under
        assert page.evaluate("scrollY") > 300
        assert 0 <= box["y"] < 10
        assert 100 < box["height"] < 300
        assert box["y"] + box["height"] <= under["y"] + 1
    page.evaluate("scrollBy(0, 60)")  # its name is behind the pictures now, not on them
    page.wait_for_timeout(100)
    inside = "([x, y]) => document.querySelector('#pictures').contains(document.elementFromPoint(x, y))"
    box = pictures.bounding_box()
    assert box
    for x in range(4, int(box["width"]) - 4, 12):
        for y in range(4, int(box["height"]) - 4, 12):
            assert page.evaluate(inside, [box["x"] + x, box["y"] + y]), (x, y)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


HOSTILE = (
    "<script>window.owned=1</script>",
    "<img src=x onerror=window.owned=1>",
    "**bold** [a](javascript:owned)",
    "\"'><b>x</b>",
)


def test_hostile_labels_are_words(page: "Page", tmp_path: Path) -> None:
    named(tmp_path / "home", dict.fromkeys(HOSTILE, (1, (-1.0, 1.0))))
    served = start(tmp_path / "home")
    try:
        watched = Watch(page, served.url)
        page.goto(served.url)
        page.locator("#model input").click()
        page.get_by_role("option", name=re.compile("local.*checkpoint")).click()
        for text in HOSTILE:
            page.locator(".slider-row", has_text=text).first.wait_for()
        full(page)
        page.locator(f"{slider(page, HOSTILE[1])} input[type=range]").press("End")  # where it is does not matter
        page.locator("#python", has_text="onerror").wait_for()
        full(page)
        page.fill("#name input", "<img src=y onerror=window.owned=2")
        page.keyboard.press("Tab")
        page.click("#add")
        assert "<img src=y" in page.locator("#add-note [role=alert]").inner_text()
        assert page.evaluate("window.owned") is None
        assert page.locator(".slider-row script, .slider-row b, .slider-row a, #add-note img").count() == 0
        assert watched.wrong == []
    finally:
        served.process.terminate()
        served.process.wait(timeout=30)
    assert served.outside == ""
