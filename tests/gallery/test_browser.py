"""The page in a real browser, from the disk, as a stranger would open it."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eigenbank.cli.main import run
from eigenbank.registry.catalog import Catalog

from .catalogs import CELL, LAYERS, SCALES, colour
from .conftest import COMMIT, FAMOUS, HOSTILE, MANY, write

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    Visit = Callable[..., Page]

pytestmark = pytest.mark.browser

SMILE = f"{FAMOUS}#{LAYERS[0]}/output-value/0"


def at(direction: str) -> str:
    return f"#direction={direction.replace('#', '%23')}"


def texts(found: "Locator") -> list[str]:
    return [text.strip() for text in found.all_inner_texts()]


def counted(page: "Page", words: str) -> None:
    """Wait until the page says how many it found."""
    page.locator(".status", has_text=re.compile(rf"^{words}\b(?! so far)")).wait_for()


def shown(page: "Page", frame: "Locator") -> tuple[int, ...]:
    """The colour in the middle of a frame, as it is painted."""
    import io

    from PIL import Image

    frame.locator("img").evaluate("image => image.decode()")
    image = Image.open(io.BytesIO(frame.screenshot())).convert("RGB")
    return image.getpixel((image.width // 2, image.height // 2))  # type: ignore[return-value]


def test_the_front_page_shows_every_checkpoint(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder)
    assert texts(page.locator(".checkpoint h3")) == [FAMOUS, "acme/cats", "zeta/rooms"]
    first = page.locator(".checkpoint").first
    assert "24 directions · 4 named · 2 layers" in first.inner_text()
    assert "apache-2.0" in first.inner_text()
    assert "licence unknown" in page.locator(".checkpoint").last.inner_text()
    assert "No pictures drawn yet." in page.locator(".checkpoint").last.inner_text()
    assert first.locator(".strip").count() == 4


def test_typing_searches_labels_layers_and_models(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder)
    page.get_by_role("searchbox").press_sequentially("warm")
    counted(page, "2 directions")
    assert texts(page.locator(".card .name")) == ["warm smile", "warm hat"]
    page.get_by_role("searchbox").fill("warm smi")
    counted(page, "1 direction")
    page.get_by_role("searchbox").fill("zeta")
    counted(page, "8 directions")
    page.get_by_role("searchbox").fill("mid_block cats")
    counted(page, "12 directions")
    page.get_by_role("searchbox").fill("nothing like it")
    page.get_by_text("No direction is like that.").wait_for()
    assert "warm smile" in page.locator(".hint").inner_text()
    page.get_by_role("searchbox").press("Escape")
    page.locator(".checkpoint").first.wait_for()


def test_filters_narrow_and_the_address_keeps_them(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder)
    page.get_by_label("Named by").focus()
    page.get_by_label("Named by").select_option("people")
    counted(page, "1 direction")
    assert page.get_by_label("Named by").evaluate("select => select === document.activeElement")
    assert texts(page.locator(".card .name")) == ["grin"]
    page.get_by_label("Named by").select_option("anyone")
    page.get_by_label("Confidence").select_option("0.8")
    counted(page, "3 directions")
    page.get_by_label("Recipe").select_option("output-value")
    counted(page, "2 directions")
    page.get_by_label("Sort by").select_option("eigenvalue")
    page.reload()
    counted(page, "2 directions")
    assert page.get_by_label("Recipe").input_value() == "output-value"
    page.get_by_label("Confidence").select_option("any")
    page.get_by_label("Recipe").select_option("all")
    page.get_by_label("Family").select_option("DiTTransformer2DModel")
    counted(page, "8 directions")
    assert page.get_by_label("Sort by").input_value() == "eigenvalue"


def test_sorting_orders_the_results(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder, "#named=yes&sort=confidence")
    counted(page, "5 directions")
    assert texts(page.locator(".card .name")) == ["warm smile", "warm hat", "age", "fluffy ears", "grin"]
    page.get_by_label("Sort by").select_option("share of the spectrum")
    page.wait_for_function("() => document.querySelector('.card .name').innerText === 'warm smile'")
    assert set(texts(page.locator(".card .name"))[-2:]) == {"fluffy ears", "warm hat"}


def test_the_slider_scrubs_through_the_scales(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder, at(SMILE))
    slider = page.get_by_role("slider")
    frames = page.locator(".stage .frame")
    assert frames.count() == 2
    for column, scale in enumerate(SCALES):
        slider.fill(str(column))
        assert page.locator(".stage output").inner_text() == (
            "unedited" if scale == 0 else f"{scale:+g}".replace("-", "−")
        )
        for row in range(2):
            assert shown(page, frames.nth(row)) == colour(0, row, column)
    slider.focus()
    slider.press("ArrowLeft")
    assert shown(page, frames.first) == colour(0, 0, len(SCALES) - 2)
    assert slider.get_attribute("aria-valuetext") == "+1"
    assert "at scale +1, seed 4" in (frames.first.locator("img").get_attribute("alt") or "")
    page.get_by_role("button", name="Unedited").click()
    assert shown(page, frames.first) == colour(0, 0, 2)
    assert "scale=0" in page.url


def test_a_pointer_over_the_picture_scrubs_and_a_click_keeps(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder, at(SMILE))
    box = page.locator(".stage .frames").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 3, box["y"] + 5)
    assert page.locator(".stage output").inner_text() == "−2"
    page.mouse.move(box["x"] + 3, 2)
    assert page.locator(".stage output").inner_text() == "+1"
    page.mouse.click(box["x"] + 3, box["y"] + 5)
    page.mouse.move(box["x"] + 3, 2)
    assert page.locator(".stage output").inner_text() == "−2"


def test_a_label_turned_around_turns_the_slider(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder, at(f"{FAMOUS}#{LAYERS[0]}/output-value/1"))
    page.get_by_role("slider").fill(str(len(SCALES) - 1))
    assert page.locator(".stage output").inner_text() == "+2"
    assert shown(page, page.locator(".stage .frame").first) == colour(1, 0, 0), (
        "more of it is the stored vector's other side"
    )
    assert f'"{LAYERS[0]}/output-value/1": -2' in page.locator(".snippet code").first.inner_text()
    assert "# more: age" in page.locator(".snippet code").first.inner_text()


def test_copying_a_snippet(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder, at(SMILE) + "&scale=2", permissions=["clipboard-read", "clipboard-write"])
    copied = {}
    for name in ("Python", "Command line", "Export the vector"):
        button = page.get_by_role("button", name=f"Copy: {name}")
        button.click()
        page.wait_for_function("button => button.textContent === 'Copied'", arg=button.element_handle())
        copied[name] = page.evaluate("navigator.clipboard.readText()")
    assert f'repo="acme/faces-directions", revision="{COMMIT}"' in copied["Python"]
    assert f'"{LAYERS[0]}/output-value/0": 2' in copied["Python"]
    compile(copied["Python"], "snippet", "exec")
    assert copied["Command line"] == f"eigenbank steer acme/faces --set {LAYERS[0]}/output-value/0=2 --out edited.png"
    assert copied["Export the vector"].startswith("eigenbank export acme/faces --set ")
    lora = visit(gallery_folder, at(f"{FAMOUS}#{LAYERS[0]}/output-value:output/0"))
    assert "slider.safetensors" in lora.locator(".snippet code").last.inner_text()


def test_copying_works_without_the_clipboard_api(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder, at(SMILE))
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    button = page.get_by_role("button", name="Copy: Command line")
    button.click()
    page.wait_for_function("button => button.textContent !== 'Copy'", arg=button.element_handle())
    assert button.inner_text() == "Copied"


def test_a_link_leads_to_a_direction_at_its_scale(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder, at(SMILE) + "&scale=-1")
    assert page.get_by_role("heading", level=1).inner_text() == "warm smile"
    assert page.locator(".stage output").inner_text() == "−1"
    assert page.title() == "warm smile · eigenbank gallery"
    text = page.locator("main").inner_text()
    for word in (
        "97 %",
        "attribute model abcdef01",
        "3 seeds, 10 to 12",
        "random directions of the same length: 0.1",
        "sha256 0123456789abcdef…",
    ):
        assert word in text, word
    link = page.get_by_role("link", name="acme/faces-directions at 01234567")
    assert link.get_attribute("href") == f"https://huggingface.co/acme/faces-directions/tree/{COMMIT}"


def test_quality_is_words_where_measured_and_not_measured_elsewhere(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder, at(SMILE))
    words = texts(page.locator(".measure .word"))
    assert words == [
        "strong",
        "moves mostly one thing",
        "always the same way",
        "twice the scale, twice the change",
        "changes the whole picture",
        "not measured",
    ]
    assert "−1 to +2" in page.locator(".range").inner_text()
    page.goto(page.url.replace("output-value/0", "qkv@0.2-0.6/3"))
    page.get_by_role("heading", name="An unnamed direction").wait_for()
    assert texts(page.locator(".measure .word")) == ["not measured"] * 6
    assert "not measured" in page.locator(".range").inner_text()


def test_the_spectrum_marks_the_chosen_rank_and_leads_to_the_others(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder, at(SMILE))
    bars = page.locator(".columns .spectrum a")
    assert bars.count() == 4
    assert (
        page.locator(".spectrum [aria-current]").get_attribute("aria-label") == "rank 0, warm smile: eigenvalue 8, 30 %"
    )
    heights = [bar.evaluate("bar => bar.style.getPropertyValue('--size')") for bar in bars.all()]
    assert [float(height) for height in heights] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4], rel=1e-4)
    bars.nth(1).click()
    page.get_by_role("heading", name="age", level=1).wait_for()
    page.get_by_role("link", name="rank 2 →").click()
    page.get_by_role("heading", name="An unnamed direction", level=1).wait_for()


def test_back_and_forth(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder)
    page.get_by_role("searchbox").press_sequentially("warm", delay=150)
    counted(page, "2 directions")
    page.locator(".card .name a").first.click()
    page.get_by_role("heading", name="warm smile", level=1).wait_for()
    page.get_by_role("slider").fill("0")
    page.go_back()
    counted(page, "2 directions")
    assert page.get_by_role("searchbox").input_value() == "warm"
    page.go_back()
    page.locator(".checkpoint").first.wait_for()
    assert page.get_by_role("searchbox").input_value() == ""
    page.go_forward()
    page.go_forward()
    page.get_by_role("heading", name="warm smile", level=1).wait_for()
    assert page.locator(".stage output").inner_text() == "−2"


def test_back_returns_to_where_one_was(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder, f"#model={FAMOUS}", height=600)
    page.locator(".layer").last.wait_for()
    last = page.locator(".layer .card .name a").last
    last.scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    before = page.evaluate("scrollY")
    assert before > 600
    last.click()
    page.get_by_role("heading", level=1, name="An unnamed direction").wait_for()
    assert page.evaluate("scrollY") < 300
    page.go_back()
    page.locator(".layer").last.wait_for()
    page.wait_for_function(f"() => Math.abs(scrollY - {before}) < 200")


def test_a_checkpoint_shows_its_directions_by_layer(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder, f"#model={FAMOUS}")
    page.get_by_role("heading", name="Named sliders").wait_for()
    assert texts(page.locator(".layer > h3")) == list(LAYERS)
    assert page.locator(".layer").first.locator(".spectrum").count() == 3
    page.get_by_label("Layer", exact=True).select_option(LAYERS[1])
    counted(page, "12 directions")
    assert texts(page.locator(".layer > h3")) == [LAYERS[1]]
    page.get_by_role("searchbox").fill("grin")
    counted(page, "1 direction")
    assert "model=acme/faces" in page.url
    page.get_by_role("link", name="Show all").click()
    page.get_by_role("heading", name="Named sliders").wait_for()


def test_a_keyboard_is_enough(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("/")
    page.keyboard.type("warm smile")
    counted(page, "1 direction")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "range":
            break
    before = page.locator(".card output").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator(".card output").inner_text() != before
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="warm smile", level=1).wait_for()
    assert page.evaluate("document.activeElement.tagName") == "H1"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") is not None


def test_hostile_texts_stay_texts(visit: "Visit", hostile_folder: Path) -> None:
    page = visit(hostile_folder)
    page.locator(".checkpoint").first.wait_for()
    name = "con/aux.-_模型"
    assert set(texts(page.locator(".checkpoint h3"))) == {name, "CON/AUX.-_模型"}
    assert "<b>free</b>" in page.locator("main").inner_text()
    page.goto(page.url.partition("#")[0] + f"#model={name}")
    page.get_by_role("heading", name="Named sliders").wait_for()
    for number, text in enumerate(HOSTILE):
        layer, recipe, rank = (
            LAYERS[number // 12],
            ("output-value", "output-value:output", "qkv@0.2-0.6")[number % 12 // 4],
            number % 4,
        )
        page.goto(page.url.partition("#")[0] + at(f"{name}#{layer}/{recipe}/{rank}"))
        page.wait_for_function("text => document.querySelector('h1').textContent === text", arg=text)
        assert page.locator("h1 bdi").count() == 1
        compile(page.locator(".snippet code").first.text_content() or "", "snippet", "exec")
    page.get_by_role("searchbox").fill("<script>")
    page.get_by_text(re.compile("direction")).first.wait_for()
    assert page.evaluate("window.owned") is None
    assert page.locator("main script, main iframe, main object").count() == 0


def test_hostile_addresses_do_nothing(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder)
    root = page.url
    for hash, words in {
        "#model=%3Cimg%20src=x%20onerror=alert(1)%3E": "No such checkpoint",
        "#model=__proto__": "No such checkpoint",
        at(f"{FAMOUS}#no/such/0"): "No such direction",
        at("no#such/direction/0"): "No such checkpoint",
        "#direction=x": "No such checkpoint",
        "#scale=NaN&" + at(SMILE)[1:]: "warm smile",
        "#q=%E0%A4%A": "No direction is like that.",
        "#recipe=nothing&sort=constructor": "No direction is like that.",
        "#min=abc": "No direction is like that.",
        "#" + "a" * 5000: "Checkpoints",
    }.items():
        page.goto(root + hash)
        page.locator("main").get_by_text(words).first.wait_for()


def test_an_empty_catalog_says_what_to_do(visit: "Visit", tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "catalog.db", shipped=False) as catalog:
        write(tmp_path / "site", catalog)
    page = visit(tmp_path / "site")
    page.get_by_role("heading", name="Nothing here yet").wait_for()
    assert "eigenbank build MODEL" in page.locator("pre").inner_text()
    page.get_by_role("searchbox").fill("smile")
    page.get_by_role("heading", name="Nothing here yet").wait_for()


def test_without_scripts_it_says_so(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder, java_script_enabled=False)
    assert page.get_by_role("heading", name="This page needs JavaScript").is_visible()
    assert "warm smile" in page.locator("noscript").inner_text()


def test_missing_files_are_told(page: "Page", gallery_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(gallery_folder, tmp_path / "site")
    for path in (folder / "data").glob("acme-faces*.js"):
        path.unlink()
    for path in (folder / "pictures").glob("acme-cats*/*.webp"):
        path.unlink()
    page.goto((folder / "index.html").as_uri() + "#model=acme/faces")
    page.get_by_role("heading", name="This checkpoint could not be read").wait_for()
    page.goto((folder / "index.html").as_uri() + "#model=acme/cats")
    page.locator(".broken").first.wait_for()
    (folder / "data" / "index.js").unlink()
    page.reload()
    page.get_by_role("heading", name="The data is missing").wait_for()


@pytest.mark.parametrize("hash", ["", f"#model={FAMOUS}", at(SMILE), "#q=warm"])
def test_nothing_is_wider_than_a_phone(visit: "Visit", gallery_folder: Path, hostile_folder: Path, hash: str) -> None:
    for folder in (gallery_folder, hostile_folder):
        page = visit(
            folder,
            hash.replace(FAMOUS, "con/aux.-_模型") if folder == hostile_folder else hash,
            width=320,
            height=640,
            is_mobile=True,
        )
        page.locator("h1").first.wait_for(state="attached")
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_the_theme_follows_the_system_and_the_button(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder, color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.get_by_role("button", name="Light or dark").click()
    light = page.evaluate(paper)
    assert sum(map(int, re.findall(r"\d+", dark))) < 150 < 600 < sum(map(int, re.findall(r"\d+", light)))
    page.reload()
    assert page.evaluate(paper) == light


def test_pictures_come_only_when_they_are_near(visit: "Visit", gallery_folder: Path) -> None:
    page = visit(gallery_folder, f"#model={FAMOUS}", height=500)
    page.get_by_role("heading", name="Named sliders").wait_for()
    assert page.locator("main img:not([loading=lazy])").count() == 0
    assert page.locator("main img").first.evaluate("image => image.naturalWidth") == CELL * len(SCALES)


COMPOSITE = f"{FAMOUS}#composite/big-smile"
PARTS = [f"{LAYERS[0]}/output-value:output/0", f"{LAYERS[1]}/output-value:output/1"]


def test_a_composite_shows_what_it_is_made_of(visit: "Visit", composite_folder: Path) -> None:
    page = visit(composite_folder, at(COMPOSITE))
    page.get_by_role("heading", name="big smile", level=1).wait_for()
    page.get_by_role("slider").fill("0")
    assert shown(page, page.locator(".stage .frame").first) == colour(3, 0, 0)
    assert "A composite of 2 directions of 2 layers" in page.locator("main").inner_text()
    assert [text.split("\n")[0] for text in texts(page.locator(".parts li"))] == PARTS
    assert texts(page.locator(".parts .weight")) == ["+0.8", "−0.6"]
    for word in (
        "97 %",
        "attribute model abcdef01",
        "random directions of the same length: 0.1",
        "A composite is asked direction by direction",
    ):
        assert word in page.locator("main").inner_text(), word
    assert texts(page.locator(".measure .word"))[:2] == ["strong", "moves mostly one thing"]
    assert "−1 to +2" in page.locator(".range").inner_text()
    python, line, export = (snippet.text_content() or "" for snippet in page.locator(".snippet code").all())
    assert '"composite/big-smile": -2' in python
    assert "--set composite/big-smile=-2" in line
    assert "slider.safetensors" in export
    page.locator(".parts a").last.click()
    page.get_by_role("heading", name="An unnamed direction", level=1).wait_for()
    assert "composite/big-smile" in page.locator(".parts").inner_text()
    page.locator(".parts a").click()
    page.get_by_role("heading", name="big smile", level=1).wait_for()
    page.get_by_role("link", name="composites", exact=True).click()
    counted(page, "1 composite")
    assert texts(page.locator(".card .name")) == ["big smile"]


def test_the_best_slider_of_a_name_comes_first_also_where_it_is_a_composite(
    visit: "Visit", composite_folder: Path
) -> None:
    page = visit(composite_folder)
    card = page.locator(".checkpoint").first
    assert "24 directions · 1 composite · 3 named" in card.inner_text()
    assert texts(card.locator(".strips .of"))[:2] == ["big smile", "age"]
    for link in (card.locator(".strips a").first, page.locator(".try a")):
        assert "composite/big-smile" in (link.get_attribute("href") or "")
    page.get_by_role("searchbox").fill("big smile")
    counted(page, "1 direction, 1 composite")
    assert "composite of 2 directions of 2 layers" in page.locator(".card").first.inner_text()
    page.goto(page.url.partition("#")[0] + f"#model={FAMOUS}")
    page.get_by_role("heading", name="Named sliders").wait_for()
    assert texts(page.locator(".card .name"))[:3] == ["big smile", "age", "big smile"]
    assert "composite of 2" in page.locator(".card").first.inner_text()
    assert page.locator(".layer").count() == 2


def test_composites_can_be_searched_for_and_filtered(visit: "Visit", composite_folder: Path) -> None:
    page = visit(composite_folder)
    page.get_by_label("Made of").select_option("several: composites")
    counted(page, "1 composite")
    assert "of=composites" in page.url
    page.get_by_label("Made of").select_option("one direction")
    counted(page, "48 directions$")
    page.get_by_label("Name", exact=True).select_option("only named ones")
    counted(page, "3 directions$")
    page.goto(page.url.partition("#")[0] + "#q=big&of=composites")
    counted(page, "1 composite")


@pytest.mark.slow
def test_a_thousand_checkpoints_are_read_as_they_are_needed(visit: "Visit", many_folder: Path) -> None:
    page = visit(many_folder)
    asked: list[str] = []
    page.on("request", lambda each: asked.append(each.url.rpartition("/")[2]))
    page.locator(".checkpoint").first.wait_for()
    assert "4,000 editing directions of 1,000 diffusion checkpoints" in page.locator(".lead").inner_text()
    assert page.locator(".checkpoint").count() < 30
    assert not [name for name in asked if name.endswith(".js")]
    page.wait_for_function(
        "() => { scrollTo(0, document.body.scrollHeight); return document.querySelectorAll('.checkpoint').length > 200; }"
    )
    names = texts(page.locator(".checkpoint h3"))
    assert names == sorted(set(names)), "all of them, each once, in their order"
    assert 0 < len([name for name in asked if name.startswith("cards-")]) < 10
    page.get_by_role("searchbox").fill("one of a kind")
    counted(page, "1 direction")
    assert len([name for name in asked if name.startswith("made-up") and name.endswith(".js")]) == 1
    page.locator(".card .name a").click()
    page.get_by_role("heading", name="one of a kind", level=1).wait_for()
    last = f"#model=made-up/checkpoint-of-some-length-{MANY - 1:04}"
    fresh = visit(many_folder, last)
    fresh.get_by_role("heading", name="Named sliders").wait_for()
    named = visit(many_folder, "#sort=name")
    named.locator(".checkpoint").first.wait_for()
    nowhere = visit(many_folder, "#model=no/such")
    nowhere.get_by_role("heading", name="No such checkpoint").wait_for()


@pytest.mark.slow
def test_checkpoints_that_cannot_be_read_are_told(page: "Page", many_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(many_folder, tmp_path / "site", ignore=shutil.ignore_patterns("pictures"))
    (folder / "data/cards-3.js").unlink()
    page.goto((folder / "index.html").as_uri() + "#q=one+of+a+kind")
    page.get_by_text(re.compile(r"\d checkpoints could not be read")).wait_for()
    page.goto((folder / "index.html").as_uri() + "#model=no/such")
    page.get_by_role("heading", name="Some checkpoints could not be read").wait_for()


def test_what_is_copied_runs(visit: "Visit", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Catalog.open() as catalog:
        write(tmp_path / "site", catalog)
    page = visit(tmp_path / "site", "#named=yes")
    page.locator(".card .name a").first.click()
    page.get_by_role("heading", name="Use it").wait_for()
    python, line, export = (snippet.text_content() or "" for snippet in page.locator(".snippet code").all())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(python.replace("num_inference_steps=50", "num_inference_steps=4"), names)
    assert len(names["images"]) == 1
    assert run([*shlex.split(line)[1:], "--steps", "4", "--seeds", "0"]) == 0
    assert (tmp_path / "edited.png").is_file()
    assert run(shlex.split(export)[1:]) == 0
    assert list(tmp_path.glob("slider.*"))
