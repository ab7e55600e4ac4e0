// What the figures share: controls, points to drag, the sentence, the address.
const range = (low, high, step = 1) =>
  Array.from({ length: (high - low) / step + 1.5 }, (_, i) => +(low + i * step).toFixed(2));
const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
const fixed = (v, digits = 2) => (+v.toFixed(digits) || 0).toFixed(digits).replace("-", "−");
// Numbers of mean 0 and sd 1, nearly normal, the same at each visit.
const uniform = (i) => Math.abs((Math.sin(i * 12.9898) * 43758.5453) % 1);
const normal = (i) => 2 * (uniform(i) + uniform(i + 0.3) + uniform(i + 0.6) - 1.5);

// controls and points: key -> [label, values, first value, text of a value].
// A point's control is out of sight: it is there for keys and screen readers.
// where: the points to be seen -> [x, y, how many times as tall as wide], in
// pixels; drag: sets them by pixels.
function figure({
  name,
  title,
  hint,
  controls,
  points,
  where,
  anywhere,
  drag,
  draw,
  say,
  forget,
  button,
  times,
  click,
}) {
  const all = [...document.querySelectorAll(`[data-bn=${name}]`)];
  const host = all.find((each) => !each.shadowRoot);
  const id = `${name}${all.indexOf(host) || ""}.`;
  // Only a page of the book has an address of its own; Sphinx marks its pages.
  const inBook = document.documentElement.hasAttribute("data-content_root");
  const query = new URLSearchParams(inBook ? location.search : "");
  const knobs = { ...points, ...controls },
    state = {};
  let form = "";
  for (const k in knobs) {
    const [label, values, first] = knobs[k];
    state[k] = values.find((v) => v == query.get(id + k)) ?? first;
    form += values[0].big
      ? `<fieldset><legend>${label}</legend>${values.map((v) => `<label><input type=radio name=${k} value="${v}">${v}</label> `).join("")}</fieldset>`
      : `<label class=${points[k] ? "point" : ""}>${label} <b aria-hidden=true></b><input type=range name=${k} max=${values.length - 1}></label>`;
  }
  const root = host.attachShadow({ mode: "open" });
  root.innerHTML = `<style>${STYLE}</style><svg role=img><title>${title}</title><g></g></svg><form>${form}${button ? `<button>${button}</button>` : ""}</form><p></p><small>${hint}</small><div class=live aria-live=polite></div>`;
  const [svg, art, status, live] = ["svg", "g", "p", ".live"].map((s) => root.querySelector(s));
  form = root.querySelector("form");
  let width, timer;

  const save = () => {
    live.textContent = status.textContent;
    if (!inBook) return;
    const link = new URL(location);
    for (const k in knobs) {
      const [, values, first] = knobs[k],
        { value } = form.elements[k];
      link.searchParams.set(id + k, values[0].big ? value : values[value]);
      if (state[k] === first) link.searchParams.delete(id + k);
    }
    history.replaceState(history.state, "", link);
  };
  const update = (changed) => {
    width = svg.clientWidth;
    if (!width) return; // not laid out yet
    const seen = where(state, width),
      [height, picture] = draw(state, width);
    const focused = root.querySelector(":focus-visible")?.name;
    svg.style.height = `${height}px`;
    art.innerHTML =
      picture +
      Object.keys(seen)
        .map(
          (k) =>
            `<circle class=grab r=14 cx=${seen[k][0]} cy=${seen[k][1]} ${k === focused ? "stroke=currentColor" : ""} />`,
        )
        .join("");
    for (const k in knobs) {
      const [, values, , text = (v) => fixed(v, 1)] = knobs[k],
        input = form.elements[k];
      input.value = values[0].big ? state[k] : values.findIndex((v) => v >= state[k]);
      if (values[0].big) continue;
      input.ariaValueText = input.previousElementSibling.textContent = text(state[k], state);
      input.parentNode.hidden = points[k] && !seen[k];
    }
    status.textContent = say(state);
    if (!changed) return;
    // A moment later, so that a screen reader hears where a movement ended.
    clearTimeout(timer);
    timer = setTimeout(save, 500);
  };

  // JupyterLab would take arrows and letters for its own commands.
  root.addEventListener("keydown", (e) => e.ctrlKey || e.metaKey || e.stopPropagation());
  form.oninput = ({ target: { name: k, type, value } }) => {
    state[k] = type === "range" ? knobs[k][1][value] : value;
    forget?.(state, k);
    update(true);
  };
  root.addEventListener("focusin", () => update());
  root.addEventListener("focusout", () => setTimeout(update));
  svg.onpointerdown = (event) => {
    const box = svg.getBoundingClientRect(),
      seen = where(state, width);
    const scale = width / box.width; // a slide may be drawn larger or smaller
    const at = (e) => [(e.clientX - box.left) * scale, (e.clientY - box.top) * scale];
    const [x, y] = at(event);
    const far = (k) => Math.hypot(x - seen[k][0], (y - seen[k][1]) / (seen[k][2] ?? 1));
    const k = Object.keys(seen).reduce((a, b) => (far(b) < far(a) ? b : a));
    if (event.button || (far(k) > 24 && !anywhere)) return;
    event.preventDefault(); // it would select text
    form.elements[k].focus({ preventScroll: true });
    svg.setPointerCapture(event.pointerId);
    svg.onpointermove = (e) => {
      drag(state, k, ...at(e), width);
      forget?.(state, k);
      update(true);
    };
    if (anywhere) svg.onpointermove(event);
  };
  svg.onpointerup = svg.onpointercancel = () => (svg.onpointermove = null);
  // In sight, within a second; at once for whom movement disturbs.
  let left = 0;
  const run = () => {
    do click(state);
    while (--left && matchMedia("(prefers-reduced-motion:reduce)").matches);
    update(true);
    if (left) setTimeout(run, 1000 / times);
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    if (click && !left) ((left = times), run());
  };
  new ResizeObserver(() => svg.clientWidth === width || update()).observe(host);
}
