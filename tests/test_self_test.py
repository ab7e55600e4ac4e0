"""The page Check yourself, in a browser: it answers, with and without scripts."""

import bank

BOOK = [q for q in bank.load() if q.half == "book"]


def form(page, question):
    return page.locator(f'form[id="{question.id}"]')


def answer(page, question, given):
    """Choose the option, or write the number, by the keyboard's Enter."""
    fields = form(page, question).locator("input")
    if question.answer is None:
        fields.nth(given).check()
        fields.nth(given).press("Enter")
    else:
        fields.fill(str(given))
        fields.press("Enter")
    return form(page, question).locator("output").inner_text()


def test_the_page_answers(browser, address):
    page = browser.new_page()
    page.goto(f"{address}chapters/self_test.html")
    assert page.locator("form.question").count() == len(BOOK)
    for question in BOOK:
        options = list(question.options)
        numeric = question.answer is not None
        right = question.answer if numeric else [o.belief for o in options].index(None)
        assert answer(page, question, right).startswith("✓ Right."), question.id
        if numeric:
            comma = str(question.answer).replace(".", ",")
            assert answer(page, question, comma).startswith("✓"), question.id
            assert "Write a number" in answer(page, question, "many")
        for i, option in enumerate(options):
            if option.belief:
                says = answer(page, question, option.text if numeric else i)
                assert says.startswith("✗ Not this one. Behind it:"), question.id

    # Links lead to sections that are there; so does the chapter's own line.
    links = page.locator("form.question .why a").evaluate_all("a => a.map(a => a.href)")
    for href in sorted(set(links)):
        page.goto(href)
        assert page.locator(f'[id="{href.partition("#")[2]}"]').count() == 1, href
    page.locator("article a", has_text="Check yourself").click()
    assert "/self_test.html#chapter-" in page.url

    page.close()

    plain = browser.new_page(java_script_enabled=False)
    plain.goto(f"{address}chapters/self_test.html")
    first = plain.locator("form.question").first
    assert not first.locator("button").is_visible()
    first.locator("summary").click()
    assert first.locator(".why").is_visible()
    plain.close()
