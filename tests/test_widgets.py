"""The figures that a reader moves: their arithmetic, and how they are moved.

Their functions run in the browser, on random numbers, and must give what
PyTorch gives. Then they are moved by mouse, finger and keys: on a bare page,
in the built book and in JupyterLab.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from urllib.request import urlopen

import nbformat
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_code_cell, new_notebook, new_output
from torch import nn
from torch.nn import functional as F

from utils import widgets

ROOT = Path(__file__).resolve().parents[1]
FIGURES = {
    "line": widgets.batch_on_a_line,
    "memory": widgets.memory_that_lags,
    "direction": widgets.direction_without_length,
    "sets": widgets.who_is_averaged,
}
CHAPTERS = {
    "line": "07_batch_size_one",
    "memory": "03_train_and_eval",
    "direction": "05_learning_rate",
    "sets": "08_other_norms",
}
THEMES = {"light": ("#fff", "#222832"), "dark": ("#14181e", "#ced6dd")}
each = pytest.mark.parametrize("name", FIGURES)


@pytest.fixture(scope="module")
def blank(browser):
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture
def opened(browser):
    """Return a function that opens figures on a bare page; errors fail the test."""
    pages, errors = [], []

    def open_(*names, theme="light", width=700, scripts=True, **context):
        paper, ink = THEMES[theme]
        page = browser.new_page(
            viewport={"width": width, "height": 900},
            java_script_enabled=scripts,
            **context,
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        figures = "".join(FIGURES[name]()._repr_html_() for name in names)
        page.set_content(
            '<!doctype html><html lang="en"><title>Figures</title><meta name="viewport"'
            f' content="width=device-width"><body style="margin:16px;font:16px '
            f'sans-serif;background:{paper};color:{ink}"><main><h1>Figures</h1>'
            f"{figures}</main>"
        )
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()
    assert not errors


def calculate(page, name, expression, *given):
    """What a JavaScript expression gives, with a figure's functions in reach."""
    source = widgets.script(name).replace("function figure(", "function unused(")
    body = f"const figure = () => {{}};\n{source}\nreturn {expression};"
    values = [v.tolist() if isinstance(v, torch.Tensor) else v for v in given]
    return page.evaluate(
        "([body, given]) => new Function('given', body)(given)", [body, values]
    )


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def close(found, expected):
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64).reshape(expected.shape),
        expected.double(),
        rtol=1e-9,
        atol=1e-9,
    )


# The arithmetic


@pytest.mark.parametrize("size", [2, 3, 8, 32])
def test_line_is_batch_norm(blank, size):
    x, stored = 3 * randn(size), (0.5, 2.0)
    gamma, beta, eps = -1.3, 0.4, 0.01
    affine = torch.tensor([[gamma], [beta]], dtype=torch.float64)
    found = calculate(blank, "line", "normalize(...given)", x, gamma, beta, eps)
    close(found, F.batch_norm(x[:, None], None, None, *affine, True, eps=eps)[:, 0])
    found = calculate(blank, "line", "normalize(...given)", x, gamma, beta, eps, stored)
    buffers = torch.tensor([[v] for v in stored], dtype=torch.float64)
    close(found, F.batch_norm(x[:, None], *buffers, *affine, False, eps=eps)[:, 0])


@pytest.mark.parametrize("momentum", [0.001, 0.1, 0.9, 1, None])
def test_memory_is_the_layers(blank, momentum):
    x = 5 + 2 * randn(60, 32, 1)  # (updates, batch, channels)
    layer = nn.BatchNorm1d(1, momentum=momentum, affine=False, dtype=torch.float64)
    stored = []
    for batch in x:
        layer(batch)
        stored += [layer.running_mean.item(), layer.running_var.item()]
    name = "None" if momentum is None else momentum
    means, variances = x.mean(dim=(1, 2)), x.var(dim=(1, 2))
    given = (means, variances, name)
    found = calculate(blank, "memory", "remember(...given)", *given)
    close(found, torch.tensor(stored, dtype=torch.float64))
    answer = layer.eval()(torch.tensor([[6.0]], dtype=torch.float64))
    found = calculate(blank, "memory", "evaluate(6, remember(...given).at(-1))", *given)
    close(found, answer)


@pytest.mark.parametrize("momentum", [0.001, 0.1, 0.9, 1, None])
@pytest.mark.parametrize("updates", [1, 2, 50])
def test_memory_weighs_batches_as_the_layer_does(blank, momentum, updates):
    # Batch t is 1 in channel t alone, so each channel keeps a batch's weight.
    layer = nn.BatchNorm1d(updates, momentum=momentum, dtype=torch.float64)
    for row in torch.eye(updates, dtype=torch.float64):
        layer(row.expand(2, -1))
    weights = layer.running_mean
    name = "None" if momentum is None else momentum
    for then in range(updates):
        found = calculate(blank, "memory", "weight(...given)", name, then, updates)
        close(found, 1 - weights[then:].sum())
    found = calculate(blank, "memory", "jitter(...given)", name, updates, 32)
    close(found, (weights.square().sum() / 32).sqrt())


@pytest.mark.parametrize("seed", range(5))
def test_direction_is_gradient_descent_before_batch_norm(blank, seed):
    points, rate, decay = randn(8, 3, seed=seed), 0.7, 0.05
    w = randn(2, seed=seed + 100).requires_grad_()
    y = F.batch_norm((points[:, :2] @ w)[:, None], None, None, training=True, eps=1e-30)
    loss = F.mse_loss(y[:, 0], points[:, 2]) / 2
    loss.backward()
    before = w.detach().clone()
    found = calculate(blank, "direction", "lossOf(...given).flat()", before, points)
    close(found, torch.cat([loss.detach()[None], w.grad]))
    torch.optim.SGD([w], lr=rate, weight_decay=decay).step()
    after = calculate(
        blank, "direction", "stepped(...given)", before, w.grad, rate, decay
    )
    close(after, w.detach())
    angle = torch.rad2deg(torch.acos(F.cosine_similarity(before, w.detach(), dim=0)))
    assert calculate(blank, "direction", "turned(...given)", before, after) == (
        pytest.approx(angle.item(), rel=1e-6)
    )


def torch_norm(norm, x, groups):
    """What PyTorch makes of x, (N, C, H, W), in training."""
    last = x.movedim(1, -1)
    return {
        "batch": lambda: F.batch_norm(x, None, None, training=True),
        "instance": lambda: F.instance_norm(x),
        "group": lambda: F.group_norm(x, groups),
        "layer": lambda: F.layer_norm(x, x.shape[1:]),
        "RMS": lambda: F.rms_norm(last, last.shape[-1:]).movedim(-1, 1),
    }[norm]()


SIZES = {1: (1, 1), 2: (1, 2), 4: (2, 2)}  # positions: height and width
SHAPES = [
    dict(norm=norm, images=n, channels=c, positions=p, groups=g)
    for norm in ("batch", "instance", "group", "layer", "RMS")
    for n, c, p in product(range(1, 5), range(1, 5), SIZES)
    for g in (range(1, 5) if norm == "group" else [1])
]


def test_sets_knows_every_shape_that_torch_refuses(blank):
    found = calculate(blank, "sets", "given.map(refusal)", *SHAPES)
    refused = 0
    for shape, message in zip(SHAPES, found):
        x = randn(shape["images"], shape["channels"], *SIZES[shape["positions"]])
        try:
            torch_norm(shape["norm"], x, shape["groups"])
            said = ""
        except (ValueError, RuntimeError) as error:
            said = str(error)
        assert said.startswith(message) and bool(said) == bool(message), shape
        refused += bool(said)
    assert refused == len([m for m in found if m]) > 0


def test_sets_are_those_that_torch_averages(blank):
    few = [
        shape
        for shape in SHAPES
        if (shape["images"], shape["channels"], shape["positions"])
        in [(1, 2, 4), (2, 4, 2), (3, 3, 1)]
    ]
    expression = "given.map((s) => cells(s).map((c) => setOf(s, s.norm, c)))"
    seen = 0
    for shape, sets in zip(few, calculate(blank, "sets", expression, *few)):
        n, c, p = (shape[k] for k in ("images", "channels", "positions"))
        x = randn(n, c, *SIZES[p]).requires_grad_()
        try:
            y = torch_norm(shape["norm"], x, shape["groups"]).reshape(n, c, p)
        except (ValueError, RuntimeError):
            continue
        for cell, members in zip(product(range(n), range(c), range(p)), sets):
            if len(members) > 1:  # an output moves with what it is averaged with
                (slope,) = torch.autograd.grad(y[cell], x, retain_graph=True)
                assert slope.reshape(n, c, p).nonzero().tolist() == members, shape
                seen += 1
    assert seen > 100


def test_two_images_in_groups_of_one_value_are_taken_and_say_nothing():
    assert F.group_norm(randn(2, 4, 1, 1), 4).abs().max() == 0


# How they are moved


def slider(page, label, index=0):
    return page.get_by_role("slider", name=label).nth(index)


def sentence(page, index=0):
    return page.locator("[data-bn] p").nth(index).inner_text()


@each
def test_is_small_and_alone(name):
    html = FIGURES[name]()._repr_html_()
    assert len(html.encode()) < 10_000
    addresses = re.findall(r"https?://\S+", html)
    assert not addresses and "<style>@" not in html and "@import" not in html
    assert "figure to move" in repr(FIGURES[name]())


@each
def test_says_what_it_would_show_without_scripts(opened, name):
    page = opened(name, scripts=False)
    assert "Where JavaScript runs" in page.inner_text("main")


@each
def test_fits_a_narrow_phone(opened, name):
    page = opened(name, width=320)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    smallest = page.evaluate(
        """() => Math.min(...[...document.querySelector("[data-bn]").shadowRoot
        .querySelectorAll("text, p, small, label")]
        .map((e) => parseFloat(getComputedStyle(e).fontSize)))"""
    )
    assert smallest >= 11


@pytest.mark.parametrize("theme", THEMES)
def test_all_four_are_accessible(opened, theme):
    page = opened(*FIGURES, theme=theme)
    found = Axe().run(page, options={"resultTypes": ["violations"]})
    assert not found.response["violations"], found.generate_report()
    images = page.locator("svg[role=img]")
    assert images.count() == 4
    for k in range(4):
        assert images.nth(k).locator("title").text_content()


@each
def test_every_control_moves_with_keys_and_says_its_value(opened, name):
    page = opened(name)
    sliders = page.get_by_role("slider")
    assert sliders.count() >= 3
    for k in range(sliders.count()):
        sliders.nth(k).focus()
        page.keyboard.press("Home")
        lowest = sliders.nth(k).get_attribute("aria-valuetext")
        page.keyboard.press("ArrowRight")
        assert sliders.nth(k).get_attribute("aria-valuetext") != lowest


@each
def test_keys_do_not_reach_the_page(opened, name):
    page = opened(name)
    page.evaluate(
        "() => { window.keys = []; document.addEventListener('keydown', "
        "(e) => window.keys.push(e.key)); }"
    )
    page.get_by_role("slider").first.focus()
    for key in ("ArrowDown", "d", "Enter"):
        page.keyboard.press(key)
    page.keyboard.press("Control+k")
    assert [k for k in page.evaluate("window.keys") if k != "Control"] == ["k"]


@each
def test_the_status_is_announced_once_a_movement_ends(opened, name):
    page = opened(name)
    live = page.locator("[aria-live=polite]")
    page.clock.install(time=0)
    page.clock.pause_at(1000)  # else it goes on by itself, too
    page.get_by_role("slider").first.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        page.clock.run_for(400)
        assert live.text_content() == ""
    page.clock.run_for(200)
    assert live.text_content() == sentence(page) != ""


def settle(page):
    """Wait until the first figure has announced, and stored, where it is."""
    page.wait_for_function(
        """() => {
            const root = document.querySelector("[data-bn]").shadowRoot;
            const said = root.querySelector("p").textContent;
            return root.querySelector(".live").textContent === said;
        }"""
    )


def test_two_of_a_kind_move_apart(opened):
    page = opened("line", "line")
    slider(page, "batch size", 1).press("Home")
    assert "Mean of 1" in sentence(page, 1) and "Mean of 2" in sentence(page, 0)
    page.get_by_role("radio", name="eval").nth(1).check()
    assert page.get_by_role("radio", name="train").nth(0).is_checked()


def grip(page, k=0):
    box = page.locator("circle.grab").nth(k).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page, start, by):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + by[0] / 2, start[1] + by[1] / 2)
    page.mouse.move(start[0] + by[0], start[1] + by[1])
    page.mouse.up()


def output(page):
    return float(
        re.search(r"output (\S+)", sentence(page))[1].strip(",.").replace("−", "-")
    )


def test_line_task(opened):
    page = opened("line")
    slider(page, "batch size").press("Home")
    for by in (60, -200):
        drag(page, grip(page), (by, 0))
        assert output(page) == 0
    for _ in range(5):
        slider(page, "β").press("ArrowRight")
    assert output(page) == 0.5 and "goal" in sentence(page)
    slider(page, "batch size").press("ArrowRight")
    for by in (-100, 150, 300):
        drag(page, grip(page), (by, 0))
        assert abs(output(page) - 0.5) == pytest.approx(1, abs=0.01)


def test_line_draws_other_mates(opened):
    page = opened("line")
    slider(page, "batch size").press("PageUp")  # of two, ten draws may look alike
    for mode, lowest, highest in [("train", 0.1, 2), ("eval", 0, 0)]:
        page.get_by_role("radio", name=mode).check()
        page.get_by_role("button", name="Draw other mates").click()
        page.wait_for_function(
            """() => document.querySelector("[data-bn]").shadowRoot
            .querySelector("p").textContent.includes("Over 10 draws")"""
        )
        spread = float(re.search(r"sd of (\S+)\.", sentence(page))[1])
        assert lowest <= spread <= highest


def test_memory_task(opened):
    page = opened("memory")
    momentum = slider(page, "momentum")
    kept = []
    momentum.press("Home")
    for _ in range(17):
        if "goal" in sentence(page):
            kept.append(momentum.get_attribute("aria-valuetext").split()[0])
        momentum.press("ArrowRight")
    assert kept == ["0.07", "0.1", "None"]
    width = page.locator("svg").bounding_box()["width"] - 34
    drag(page, grip(page, 1), (-width * 180 / 200, 0))
    assert slider(page, "shift").get_attribute("aria-valuetext") == "20"
    said = sentence(page)
    assert "before the shift 40.0\xa0%" in said and "goal" not in said
    kept = []
    for _ in range(17):
        if "goal" in sentence(page):
            kept.append(momentum.get_attribute("aria-valuetext").split()[0])
        momentum.press("ArrowLeft")
    assert kept == ["0.1"]


def test_direction_task(opened):
    page = opened("direction", reduced_motion="reduce")
    number = (
        r"effective rate η/length² (\S+), loss (\S+)\. The next step turns it by (\S+)°"
    )
    slider(page, "Length of the weights").press("Home")
    short = re.search(number, sentence(page)).groups()
    length = slider(page, "Length of the weights")
    for _ in range(47):
        length.press("ArrowRight")
    long = re.search(number, sentence(page)).groups()
    factor = float(short[0]) / float(long[0])
    assert factor > 80 and short[1] == long[1]
    length.press("Home")
    for _ in range(40):
        length.press("ArrowRight")
    decay, rate = slider(page, "decay"), slider(page, "rate")

    def after_300_steps():
        for _ in range(3):
            page.get_by_role("button", name="100 steps").click()
        return sentence(page)

    for key in ("Home", "End"):  # without decay no rate keeps it
        rate.press(key)
        assert "Of 300 steps" in after_300_steps()
        assert "goal" not in sentence(page)
    length.press("Home")
    for _ in range(40):
        length.press("ArrowRight")
    rate.press("Home")
    for _ in range(4):
        rate.press("ArrowRight")
    assert rate.get_attribute("aria-valuetext") == "0.2"
    for _ in range(5):
        decay.press("ArrowRight")
    assert decay.get_attribute("aria-valuetext") == "0.02"
    assert "goal" in after_300_steps()


def test_direction_turns_by_mouse(opened):
    page = opened("direction")
    before = slider(page, "Direction").get_attribute("aria-valuetext")
    drag(page, grip(page), (-40, -60))
    assert slider(page, "Direction").get_attribute("aria-valuetext") != before


def test_points_are_where_they_are_seen_on_a_scaled_slide(opened):
    page = opened("line")
    page.add_style_tag(content="main { transform: scale(0.5) }")
    drag(page, grip(page), (-50, 0))
    left = 1.2 - 8 * 100 / (page.locator("svg").evaluate("svg => svg.clientWidth") - 24)
    assert f"input {left:.1f}".replace("-", "−") in sentence(page)


def test_sets_task(opened):
    page = opened("sets")
    assert "16 of 64 cells" in sentence(page) and "takes it" in sentence(page)
    slider(page, "images").press("Home")
    assert "as in instance norm" in sentence(page)
    slider(page, "positions").press("Home")
    assert "refuses it: “Expected more than 1 value per channel" in sentence(page)
    box = page.locator("svg").bounding_box()
    slider(page, "images").press("End")
    page.mouse.click(box["x"] + 50, box["y"] + 80)
    assert slider(page, "Cell of image").get_attribute("aria-valuetext") == "2"
    assert slider(page, "Cell of channel").get_attribute("aria-valuetext") == "2"


def test_a_finger_moves_a_point_and_scrolls_elsewhere(opened):
    page = opened("line", width=390, has_touch=True)
    session = page.context.new_cdp_session(page)

    def swipe(x, y, dx, dy):
        touch = "Input.dispatchTouchEvent"
        session.send(touch, {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        for k in range(1, 11):
            point = {"x": x + dx * k / 10, "y": y + dy * k / 10}
            session.send(touch, {"type": "touchMove", "touchPoints": [point]})
        session.send(touch, {"type": "touchEnd", "touchPoints": []})

    page.set_viewport_size({"width": 390, "height": 400})
    x, y = grip(page)
    swipe(x, y, -100, -30)
    assert "input 1.20" not in sentence(page) and page.evaluate("scrollY") == 0
    before = sentence(page)
    swipe(x + 30, y + 150, 0, -150)
    page.wait_for_timeout(300)
    assert page.evaluate("scrollY") > 50 and sentence(page) == before


def test_in_a_frame_of_its_own(opened):
    """As in Colab: another origin, which may not touch the page around it."""
    page = opened("line")
    page.evaluate(
        """(html) => {
            const frame = document.createElement("iframe");
            Object.assign(frame, {sandbox: "allow-scripts", srcdoc: html});
            document.body.replaceChildren(frame);
        }""",
        widgets.batch_on_a_line()._repr_html_(),
    )
    frame = page.frame_locator("iframe")
    frame.get_by_role("slider", name="batch size").press("Home")
    frame.locator(".live", has_text="Mean of 1").wait_for(state="attached")


# In the book


@each
def test_in_the_book_its_state_is_in_the_address(browser, address, opened, name):
    page = browser.new_page(viewport={"width": 320, "height": 900})

    def go(url):
        page.goto(url, wait_until="domcontentloaded")

    bad = f"{name}.size=1e9&{name}.momentum=<b>&{name}.images=-1&{name}.x0=NaN"
    go(f"{address}chapters/{CHAPTERS[name]}.html?{bad}&other=1#references")
    assert sentence(page) == sentence(opened(name))
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.locator("[data-bn]").get_by_role("slider").last.press("ArrowRight")
    if name == "line":
        drag(page, grip(page), (-40, 0))
    settle(page)
    moved, said = page.url, sentence(page)
    assert f"{name}." in moved and "other=1" in moved and moved.endswith("#references")
    page.goto("about:blank")
    go(moved)
    assert sentence(page) == said
    page.close()


def test_the_search_does_not_know_the_scripts(address):
    with urlopen(f"{address}sections.js") as answer:
        text = answer.read().decode()
    assert "data-bn" not in text and "attachShadow" not in text


# In JupyterLab


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    """The address of a JupyterLab in its dark theme, with a notebook of two figures."""
    folder = tmp_path_factory.mktemp("lab")
    # Stored and trusted outputs are drawn as fresh ones are, and need no kernel.
    figures = [widgets.batch_on_a_line(), widgets.batch_on_a_line()]
    figures += [widgets.who_is_averaged()]
    outputs = [
        new_output("display_data", {"text/html": figure._repr_html_()})
        for figure in figures
    ]
    cells = [new_code_cell("figures", outputs=outputs), new_code_cell("below = 1")]
    kernel = {"name": "python3", "display_name": "Python 3"}  # else Lab asks
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    NotebookNotary(data_dir=str(folder)).sign(notebook)
    nbformat.write(notebook, folder / "figures.ipynb")
    theme = folder / "settings" / "@jupyterlab" / "apputils-extension"
    theme.mkdir(parents=True)
    choice = {"theme": "JupyterLab Dark"}
    (theme / "themes.jupyterlab-settings").write_text(json.dumps(choice))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    log = open(folder / "log.txt", "w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        + [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
        + ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
        + ["--LabApp.news_url=", "--LabApp.check_for_updates_class="
           "jupyterlab.NeverCheckForUpdate"],
        env=env, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}/"
    try:
        latest = time.monotonic() + 180  # the machine may be busy
        while True:
            try:
                urlopen(f"{address}api", timeout=20)
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > latest:
                    pytest.fail((folder / "log.txt").read_text(), pytrace=False)
                time.sleep(0.1)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)
        log.close()


def test_in_jupyterlab(browser, laboratory):
    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    page.set_default_timeout(60_000)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{laboratory}lab/tree/figures.ipynb")
    page.locator("[data-bn] svg").nth(2).wait_for()
    slider(page, "batch size").scroll_into_view_if_needed()
    assert "mean of 2" in sentence(page).lower()
    ink = page.evaluate("getComputedStyle(document.querySelector('[data-bn]')).color")
    assert all(int(v) > 127 for v in re.findall(r"\d+", ink)[:3])  # light on dark
    drag(page, grip(page), (-80, 0))
    assert "input 1.20" not in sentence(page, 0) and "input 1.20" in sentence(page, 1)
    # Arrows and letters would choose, and delete, cells.
    slider(page, "batch size").focus()
    for key in ("ArrowUp", "ArrowDown", "ArrowDown", "d", "d", "x", "a"):
        page.keyboard.press(key)
    assert "mean of 1" in sentence(page).lower()
    page.get_by_role("radio", name="eval").first.check()
    assert "Stored mean" in sentence(page)
    settle(page)
    assert page.locator(".jp-Notebook .jp-CodeCell").count() == 2
    assert (
        page.locator(".jp-Notebook .jp-Cell.jp-mod-active")
        .first.locator("[data-bn]")
        .count()
    )
    assert "?" not in page.url.replace("?reset", "")
    assert not errors
    page.close()
