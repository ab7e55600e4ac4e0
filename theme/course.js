// Print in the light theme: paper is white, and css alone cannot swap themes.
addEventListener("beforeprint", () => {
  const html = document.documentElement;
  const theme = html.dataset.theme;
  html.dataset.theme = "light";
  addEventListener("afterprint", () => (html.dataset.theme = theme), {
    once: true,
  });
});

// What is wider than its place scrolls: let keys do it, and say so.
const WIDE =
  ".scroller, .pst-scrollable-table-container, div.math, .text_html, .bd-article pre";

function markScrollers() {
  for (const wide of document.querySelectorAll(WIDE)) {
    const scrolls = wide.scrollWidth > wide.clientWidth + 1;
    (wide.closest(".drawing") ?? wide).classList.toggle("scrolls", scrolls);
    if (!scrolls) continue;
    wide.tabIndex = 0;
    if (wide.dataset.label) {
      wide.role = "group";
      wide.ariaLabel = `${wide.dataset.label}, scrolls sideways`;
    }
  }
}

// The text's place changes with the window, a fold, and while a sidebar slides.
addEventListener("load", markScrollers);
for (const part of document.querySelectorAll("main, article")) {
  new ResizeObserver(markScrollers).observe(part);
}

// Who closes a menu is back at the button that opened it.
for (const side of ["primary", "secondary"]) {
  const menu = document.getElementById(`pst-${side}-sidebar-modal`);
  menu?.addEventListener("close", () => {
    const buttons = [...document.querySelectorAll(`.${side}-toggle`)];
    setTimeout(() => buttons.find((button) => button.checkVisibility())?.focus());
  });
}
