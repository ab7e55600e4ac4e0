"""The built book's own search, given what people paste."""

import re
from urllib.parse import quote

import pytest

from tests.test_symptoms import PAGE

# What is pasted, and the entry of symptoms.md that must come first: messages
# and symptoms from the threads, and variants with other numbers and names.
MESSAGES = [
    (
        "ValueError: Expected more than 1 value per channel when training, "
        "got input size torch.Size([1, 256, 1, 1])",
        "one-value-per-channel",
    ),
    (
        "Expected more than 1 value per channel when training, "
        "got input size torch.Size([1, 512])",
        "one-value-per-channel",
    ),
    (
        "raise ValueError('Expected more than 1 value per channel when training, "
        "got input size {}'.format(size))",
        "one-value-per-channel",
    ),
    (
        'File "/opt/conda/lib/python3.9/site-packages/torch/nn/functional.py", '
        "line 2416, in _verify_batch_size ValueError: Expected more than 1 value "
        "per channel when training, got input size torch.Size([1, 2048, 1, 1])",
        "one-value-per-channel",
    ),
    (
        "Expected more than 1 spatial element when training, "
        "got input size torch.Size([8, 64, 1, 1])",
        "instance-norm-of-one-position",
    ),
    ("running_mean should contain 10 elements not 16", "channels-last-layout"),
    (
        "RuntimeError: running_mean should contain 64 elements not 256",
        "channels-last-layout",
    ),
    (
        "ValueError: expected 4D input (got 2D input)",
        "wrong-number-of-dimensions",
    ),
    ("expected scalar type Half but found Float", "mixed-dtypes"),
    (
        "RuntimeError: expected scalar type Half but found Float at "
        "/pytorch/aten/src/ATen/native/cuda/Normalization.cuh:42",
        "mixed-dtypes",
    ),
    (
        "RuntimeError: Batch norm got a batched tensor as input while the "
        "running_mean or running_var, which will be updated in place, "
        "were not batched.",
        "vmap",
    ),
    (
        "RuntimeError: During a grad (vjp, jvp, grad, etc) transform, the function "
        "provided attempted to call in-place operation (aten::add_.Tensor) that "
        "would mutate a captured Tensor. This is not supported; please rewrite",
        "per-example-gradients",
    ),
    ("SyncBatchNorm expected input tensor to be on GPU", "sync-batch-norm-on-cpu"),
    (
        "RuntimeError: one of the variables needed for gradient computation has "
        "been modified by an inplace operation: [torch.cuda.FloatTensor [1, 32]] "
        "is at version 3; expected version 2 instead. Hint: enable anomaly "
        "detection to find the operation that failed to compute its gradient",
        "two-forwards-in-ddp",
    ),
    (
        "Unexpected key(s) in state_dict: "
        '"module.layer1.0.bn1.num_batches_tracked", "bn1.num_batches_tracked"',
        "unexpected-keys",
    ),
    (
        "RuntimeError: Error(s) in loading state_dict for ResNet: Unexpected "
        'key(s) in state_dict: "layer4.1.bn2.num_batches_tracked".',
        "unexpected-keys",
    ),
    (
        "training accuracy is perfect, model.eval() gives 10 %",
        "good-in-training-bad-in-eval",
    ),
    (
        "the prediction for one image changes with its batch",
        "prediction-depends-on-the-batch",
    ),
    ("my frozen backbone still changes", "frozen-backbone-changes"),
    ("statistics move under torch.no_grad()", "no-grad-is-not-eval"),
    ("federated averaging goes wrong with BN", "averaging-parameters-only"),
    ("near-zero accuracy after weight averaging (SWA)", "averaged-weights"),
    (
        "activation checkpointing updates the statistics twice",
        "checkpointing-updates-twice",
    ),
    ("gradient accumulation is not a larger batch", "accumulation"),
    (
        "IncompatibleModuleException: BatchNorm cannot support training with "
        "differential privacy",
        "opacus",
    ),
]
# Queries and the page that must be among the first three.
ELSEWHERE = [
    ("momentum should be 0.9", "chapters/symptoms.html"),
    ("mini-batch size 1", "chapters/07_batch_size_one.html"),
    ("internal covariate shift", "chapters/01_internal_covariate_shift.html"),
    ("BatchNorm momentum in tensorflow keras flax", "chapters/notation.html"),
    ("Should you always use batch normalization?", "chapters/answers.html"),
    ("What happens if we use batch norm with mini-batch size 1?", "index.html"),
]


@pytest.fixture(scope="module")
def page(browser):
    return browser.new_page()


@pytest.fixture(scope="module")
def search(address, page):
    """Return a function from a query to the addresses found, best first."""
    trouble = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on(
        "console",
        lambda m: m.type in ("error", "warning") and trouble.append(m.text),
    )
    page.on(
        "request",
        lambda r: r.url.startswith(address) or trouble.append(r.url),
    )

    def find(query):
        trouble.clear()
        page.goto(f"{address}search.html?q={quote(query)}")
        page.wait_for_function("document.querySelector('.search-summary')?.innerText")
        page.wait_for_load_state("networkidle")
        assert not trouble
        links = page.locator("ul.search > li > a").all()
        return [a.get_attribute("href").removeprefix(address) for a in links]

    return find


def section_of(anchor):
    """The id that Sphinx derives from the heading below the anchor."""
    heading = re.search(rf"^\({anchor}\)=\n### (.+)$", PAGE.read_text(), re.M)[1]
    words = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
    return f"chapters/symptoms.html#{words}"


@pytest.mark.parametrize("message, anchor", MESSAGES)
def test_a_pasted_message_leads_to_its_entry(search, message, anchor):
    assert search(message)[:1] == [section_of(anchor)]


@pytest.mark.parametrize("query, place", ELSEWHERE)
def test_other_queries_lead_to_their_page(search, query, place):
    pages = [found.partition("#")[0] for found in search(query)]
    assert place in list(dict.fromkeys(pages))[:3]


def test_one_strange_word_does_not_spoil_the_search(search):
    assert search("group norm instead of batch norm for xylophone")
    assert search("no matching constructor for batch norm")


def test_nonsense_finds_nothing(search):
    assert search("qwertzuiop asdfghjkl yxcvbnmq") == []


def test_the_search_box_leads_there(address, page):
    """The theme's own field, and the entry that the first result opens."""
    message, anchor = MESSAGES[0]
    page.goto(address + "index.html")
    page.locator("button.search-button__button:visible").first.click()
    field = page.locator("input[name=q]:visible").first
    field.fill(message)
    field.press("Enter")
    page.locator("ul.search > li > a").first.click()
    page.wait_for_url(address + section_of(anchor))
    entry = page.evaluate("document.querySelector(location.hash).innerText")
    assert message in entry
