// What was read and answered: kept in this browser, sent nowhere.
{
  const KEY = "bn-measured";
  const MARK =
    '<b class="mark-read"><i aria-hidden="true">✓</i><span class="visually-hidden">, read</span></b>';
  const chapterOf = (link) => /\/(\d\d_\w+)(\.html)?$/.exec(link.pathname)?.[1];
  const safe = (action) => {
    try {
      return action();
    } catch {} // a browser may refuse to store
  };
  const known = () => ({
    read: [],
    right: [],
    ...safe(() => JSON.parse(localStorage.getItem(KEY))),
  });

  function note(kind, name) {
    const now = known();
    now[kind] = [...new Set([...now[kind], name])];
    safe(() => localStorage.setItem(KEY, JSON.stringify(now)));
    show();
  }

  function show() {
    const { read, right } = known();
    document.querySelectorAll(".mark-read").forEach((mark) => mark.remove());
    const links = [...document.querySelectorAll(".bd-docs-nav a")].filter(chapterOf);
    const done = links.filter((link) => read.includes(chapterOf(link)));
    for (const link of done) {
      link.insertAdjacentHTML("beforeend", MARK);
    }
    const place = document.getElementById("progress");
    if (!place) return;
    place.hidden = !done.length && !right.length;
    place.querySelector("output").textContent =
      `${done.length} of ${links.length} chapters read` +
      (right.length ? `; right in the self-test: ${right.length}.` : ".");
    place.querySelector("button").onclick = () => {
      safe(() => localStorage.removeItem(KEY));
      show();
    };
  }

  const end = document.querySelector(".prev-next-footer");
  const here = chapterOf(location);
  if (end && here) {
    new IntersectionObserver((seen) => {
      if (seen.at(-1).isIntersecting) note("read", here);
    }).observe(end);
  }
  // After the form's own answer: theme/self_test.js.
  document.addEventListener("submit", ({ target }) => {
    if (target.querySelector("output.right")) note("right", target.id);
  });
  addEventListener("pageshow", show); // on the way back
  show();
}
