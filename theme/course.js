// What every page does: print, fit, find.

// Print in the light theme: paper is white, and css alone cannot swap themes.
addEventListener("beforeprint", () => {
  const html = document.documentElement;
  const theme = html.dataset.theme;
  html.dataset.theme = "light";
  addEventListener("afterprint", () => (html.dataset.theme = theme), {
    once: true,
  });
});

// What is wider than its place scrolls: let keys do it, and say so. Only what is near
// the screen is measured: to measure all would lay out the whole page first.
const WIDE =
  ".scroller, .pst-scrollable-table-container, div.math, .text_html, .bd-article pre";
const nearby = new Set();

function markScrollers(found) {
  const measured = [...found].map((e) => [e, e.scrollWidth > e.clientWidth + 1]);
  for (const [wide, scrolls] of measured) {
    (wide.closest(".drawing") ?? wide).classList.toggle("scrolls", scrolls);
    if (scrolls) wide.tabIndex = 0;
    else wide.removeAttribute("tabindex");
    if (scrolls && wide.dataset.label) {
      wide.role = "group";
      wide.ariaLabel = `${wide.dataset.label}, scrolls sideways`;
    }
  }
}

// It also tells when a fold is opened: what is in it has no place before.
const watch = new IntersectionObserver(
  (changes) => {
    for (const { target, isIntersecting } of changes) {
      nearby[isIntersecting ? "add" : "delete"](target);
    }
    markScrollers(nearby);
  },
  { rootMargin: "100%" },
);
addEventListener("load", () => {
  document.querySelectorAll(WIDE).forEach((wide) => watch.observe(wide));
});
// The text's place changes with the window, and while a sidebar slides.
for (const part of document.querySelectorAll("main, article")) {
  new ResizeObserver(() => markScrollers(nearby)).observe(part);
}

// Who closes a menu is back at the button that opened it.
for (const side of ["primary", "secondary"]) {
  const menu = document.getElementById(`pst-${side}-sidebar-modal`);
  menu?.addEventListener("close", () => {
    const buttons = [...document.querySelectorAll(`.${side}-toggle`)];
    setTimeout(() => buttons.find((button) => button.checkVisibility())?.focus());
  });
}
