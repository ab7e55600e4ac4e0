// What was read and answered here: kept in this browser, sent nowhere.
{
  const KEY = "batch-norm-measured";
  const chapterOf = (link) => /\/(\d\d_\w+)(\.html)?$/.exec(link.pathname)?.[1];
  // A browser may refuse to store. Then nothing is known, and nothing shown.
  const attempt = (action) => {
    try {
      return action();
    } catch {
      return null;
    }
  };
  const known = () => ({
    read: [],
    right: [],
    ...attempt(() => JSON.parse(localStorage.getItem(KEY))),
  });

  function note(kind, name) {
    const now = known();
    now[kind] = [...new Set([...now[kind], name])];
    attempt(() => localStorage.setItem(KEY, JSON.stringify(now)));
    show();
  }

  function show() {
    const { read, right } = known();
    document.querySelectorAll(".mark-read").forEach((mark) => mark.remove());
    const links = [...document.querySelectorAll(".bd-docs-nav a")].filter(chapterOf);
    const done = links.filter((link) => read.includes(chapterOf(link)));
    for (const link of done) {
      link.insertAdjacentHTML(
        "beforeend",
        '<span class="mark-read"><span aria-hidden="true">✓</span>' +
          '<span class="visually-hidden">read</span></span>',
      );
    }
    const place = document.getElementById("progress");
    if (!place) return;
    place.hidden = !done.length && !right.length;
    place.querySelector("output").textContent =
      `${done.length} of ${links.length} chapters read` +
      (right.length ? `, ${right.length} answers right in the self-test.` : ".");
    place.querySelector("button").onclick = () => {
      attempt(() => localStorage.removeItem(KEY));
      show();
    };
  }

  const end = document.querySelector(".prev-next-footer");
  if (end && chapterOf(location)) {
    new IntersectionObserver((seen) => {
      if (seen.at(-1).isIntersecting) note("read", chapterOf(location));
    }).observe(end);
  }
  // After the form's own answer: theme/self_test.js.
  document.addEventListener("submit", ({ target }) => {
    if (target.querySelector("output.right")) note("right", target.id);
  });
  addEventListener("pageshow", show); // also on the way back
  show();
}
