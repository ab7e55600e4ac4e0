// Print in the light theme: paper is white, and css alone cannot swap themes.
addEventListener("beforeprint", () => {
  const html = document.documentElement;
  const theme = html.dataset.theme;
  html.dataset.theme = "light";
  addEventListener("afterprint", () => (html.dataset.theme = theme), {
    once: true,
  });
});
