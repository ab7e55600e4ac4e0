// Batch norm of some values: with their own mean and variance, or with stored ones.
const statistics = (x) => {
  const mean = x.reduce((sum, v) => sum + v, 0) / x.length;
  return [mean, x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / x.length];
};
const normalize = (x, gamma, beta, eps, [mean, variance] = statistics(x)) =>
  x.map((v) => (gamma * (v - mean)) / Math.sqrt(variance + eps) + beta);

const places = range(-4, 4, 0.05);
const place = (v) => places[clamp(Math.round(20 * v) + 80, 0, 160)];
const batch = (s) => range(0, s.size - 1).map((i) => s[`x${i}`]);
const used = (s) => (s.mode === "eval" ? [0, 1] : statistics(batch(s)));
const outputs = (s) => normalize(batch(s), s.gamma, s.beta, s.eps, used(s));
let trail = []; // your image's outputs, one for each draw of mates
const X = 55,
  Y = 140; // where the two axes are
const at = (v, width) => (width / 2 + (clamp(v, -4, 4) * (width - 24)) / 8).toFixed(1);

figure({
  name: "line",
  title: "A batch of values on a line, and what batch norm makes of them",
  hint: "Drag any point, or press Tab and arrow keys.",
  points: Object.fromEntries(
    range(0, 31).map((i) => [
      `x${i}`,
      [
        i ? `Input of mate ${i}` : "Your image's input",
        places,
        i ? place(normal(i + 6)) : 1.2,
        (v, s) => `${fixed(v)}, output ${fixed(outputs(s)[i] ?? 0)}`,
      ],
    ]),
  ),
  controls: {
    size: ["batch size", range(1, 32), 2, String],
    gamma: ["γ", range(-2, 2, 0.1), 1],
    beta: ["β", range(-2, 2, 0.1), 0],
    eps: ["ε", [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1], 1e-5, String],
    mode: ["mode", ["train", "eval"], "train"],
  },
  where: (s, width) => Object.fromEntries(batch(s).map((v, i) => [`x${i}`, [at(v, width), X]])),
  drag: (s, k, x, _, width) => (s[k] = place(((x - width / 2) / (width - 24)) * 8)),
  forget: () => (trail = []),
  button: "Draw other mates, 10 times",
  times: 10,
  click(s) {
    for (let i = 1; i < 32; i++) s[`x${i}`] = place(normal(1e4 * Math.random()));
    trail.push(outputs(s)[0]);
  },
  draw(s, width) {
    const p = (v) => at(v, width),
      [mean, variance] = used(s),
      sd = Math.sqrt(variance),
      x = batch(s);
    const axis = (top, label) =>
      `<text x=12 y=${top - 22} font-weight=bold>${label}</text><path class=grey d="M12 ${top}H${width - 12}${range(
        -4,
        4,
      )
        .map((v) => `M${p(v)} ${top}v5`)
        .join("")}"/>` +
      [-4, -2, 0, 2, 4]
        .map((v) => `<text x=${p(v)} y=${top + 18} text-anchor=middle>${fixed(v, 0)}</text>`)
        .join("");
    return [
      Y + 90,
      `<path class="bn soft" d="M${p(mean - sd)} ${X - 18}H${p(mean + sd)}v36H${p(mean - sd)}z"/><path class="bn line" d="M${p(mean)} ${X - 18}v36"/>
<text x=${clamp(p(mean), 40, width - 40)} y=${X - 38} text-anchor=middle>mean ± sd</text>` +
        axis(X, "input") +
        axis(Y, "output") +
        `<path class=dash d="M${p(0.5)} ${Y - 20}v40"/><text x=${p(0.5) - 6} y=${Y - 12} text-anchor=end>goal 0.5</text>` +
        outputs(s)
          .map(
            (v, i) =>
              `<path class="${i ? "soft" : "bn line"}" d="M${p(x[i])} ${X}L${p(v)} ${Y}"/>` +
              [
                [x[i], X],
                [v, Y],
              ]
                .map(([v, y]) =>
                  i
                    ? `<circle class=grey cx=${p(v)} cy=${y} r=5 />`
                    : `<path class=bn d="M${p(v)} ${y - 9}l7 9l-7 9l-7-9z"/>`,
                )
                .join(""),
          )
          .reverse()
          .join("") +
        `<text x=${p(x[0])} y=${X - 17} text-anchor=middle font-weight=bold>you</text>` +
        trail
          .slice(-30)
          .reverse()
          .map(
            (v, i) =>
              `<circle class=bn opacity=${1 - i / 40} cx=${p(v)} cy=${Y + 28 + 2 * i} r=2 />`,
          )
          .join(""),
    ];
  },
  say(s) {
    const [mean, variance] = used(s),
      y = outputs(s)[0],
      [, spread] = statistics(trail);
    return (
      `${s.mode === "eval" ? "Stored mean" : `Mean of ${s.size}:`} ${fixed(mean)}, sd ${fixed(Math.sqrt(variance))}. Your image: input ${fixed(s.x0)}, output ${fixed(y)}${Math.abs(y - 0.5) < 0.015 ? ", the goal!" : "."}` +
      `${s.size === 1 && variance === 0 ? " (PyTorch refuses a batch of one; this is the formula.)" : ""}` +
      `${trail.length ? ` Over ${trail.length} draws of mates its output has an sd of ${fixed(Math.sqrt(spread))}.` : ""}`
    );
  },
});
