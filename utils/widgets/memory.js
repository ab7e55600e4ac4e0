// After each batch: the stored mean and variance. momentum "None": the plain mean.
const remember = (means, variances, momentum) => {
  let mean = 0,
    variance = 1;
  return means.map((batch, t) => {
    const m = momentum === "None" ? 1 / (t + 1) : momentum;
    mean = (1 - m) * mean + m * batch;
    variance = (1 - m) * variance + m * variances[t];
    return [mean, variance];
  });
};
const evaluate = (x, [mean, variance], eps = 1e-5) => (x - mean) / Math.sqrt(variance + eps);
// What batches up to `then` still weigh in the memory at `now`; before 0 is the start.
const weight = (momentum, then, now) =>
  momentum === "None" ? then / now : (1 - momentum) ** (now - then);
// The stored mean's sd over draws of the batches, in sds of the data.
const jitter = (momentum, t, size) =>
  momentum === "None"
    ? 1 / Math.sqrt(size * t)
    : Math.sqrt((momentum / (2 - momentum) / size) * (1 - (1 - momentum) ** (2 * t)));

const UPDATES = 200,
  SIZE = 32,
  MEAN = 5,
  SD = 2,
  SHIFT = 2,
  IMAGE = 6;
const draws = range(1, UPDATES).map((t) => range(1, SIZE).map((i) => normal(t * SIZE + i)));
const average = (x) => x.reduce((sum, v) => sum + v, 0) / x.length;
const means = draws.map(average);
const variances = draws.map(
  (x, t) => (SD ** 2 * SIZE * average(x.map((v) => (v - means[t]) ** 2))) / (SIZE - 1),
);
const shifted = (s, t) => t > s.shift && s.shift < UPDATES; // at the right edge: never
const truth = (s, t) => MEAN + (shifted(s, t) ? SHIFT : 0);
const batches = (s) => means.map((z, t) => truth(s, t + 1) + SD * z);
const right = (s, t) => (IMAGE - truth(s, t)) / SD;
const percent = (v) => `${fixed(100 * v, 1)}\xa0%`;
const at = (t, width) => 20 + (t / UPDATES) * (width - 34);

figure({
  name: "memory",
  title: "The mean of each batch, the stored mean, and an image's output in eval mode",
  hint: "Drag the two lines, or press Tab and arrow keys.",
  points: {
    look: ["Look after update", range(1, UPDATES), 50, String],
    shift: [
      "The data shift after update",
      range(1, UPDATES),
      UPDATES,
      (t) => (t < UPDATES ? t : "never"),
    ],
  },
  controls: {
    momentum: [
      "momentum",
      [
        0.001,
        0.002,
        0.005,
        0.01,
        0.02,
        0.03,
        0.05,
        0.07,
        0.1,
        0.15,
        0.2,
        0.3,
        0.5,
        0.7,
        0.9,
        1,
        "None",
      ],
      0.01,
      (m) => (m === "None" ? "None" : `${m} (Keras: ${+(1 - m).toFixed(3)})`),
    ],
  },
  where: (s, width) => ({ look: [at(s.look, width), 17, 9], shift: [at(s.shift, width), 278, 9] }),
  drag: (s, k, x, _, width) =>
    (s[k] = clamp(Math.round(((x - 20) / (width - 34)) * UPDATES), 1, UPDATES)),
  draw(s, width) {
    const x = (t) => at(t, width).toFixed(1),
      stored = remember(batches(s), variances, s.momentum);
    const y = (v) => 152 - 13 * v,
      z = (v) => 250 - 10 * clamp(v, -2, 6); // pixels of a mean, of an output
    const trace = (values) =>
      `d="M${values.map((v, t) => `${x(t + 1)} ${v.toFixed(1)}`).join("L")}"`;
    const marks = (scale, top, label) =>
      [0, 5]
        .map(
          (v) =>
            `<text x=14 y=${scale(v) + 4} text-anchor=end>${v}</text><path class=soft d="M20 ${scale(v)}H${width - 14}"/>`,
        )
        .join("") + `<text x=20 y=${top} font-weight=bold>${label}</text>`;
    return [
      306,
      marks(y, 48, "stored mean; dots: the batches") +
        marks(z, 178, "eval output; dashed: right") +
        batches(s)
          .map((v, t) => `<circle class=soft cx=${x(t + 1)} cy=${y(v).toFixed(1)} r=2 />`)
          .join("") +
        `<path class="bn line" ${trace(stored.map((r) => y(r[0])))}/><path class="bn line" ${trace(stored.map((r) => z(evaluate(IMAGE, r))))}/><path class=dash ${trace(means.map((_, t) => z(right(s, t + 1))))}/>
<path d="M${x(s.look)} 17v19m0 18v111m0 19v88"/><circle cx=${x(s.look)} cy=17 r=7 /><path class=dash d="M${x(s.shift)} 54v111m0 19v88"/><path class=third d="M${x(s.shift)} 270l8 8l-8 8l-8-8z"/>` +
        [
          ["look", 17],
          ["shift", 278],
        ]
          .map(
            ([k, y]) =>
              `<text x=${+x(s[k]) + (s[k] > 100 ? -20 : 20)} y=${y + 4} text-anchor=${s[k] > 100 ? "end" : "start"}>${k}</text>`,
          )
          .join("") +
        `<text x=20 y=302>0</text><text x=${x(100)} y=302 text-anchor=middle>100</text><text x=${width} y=302 text-anchor=end>200 updates</text>`,
    ];
  },
  say(s) {
    const { look, momentum, shift } = s,
      start = weight(momentum, 0, look),
      old = shifted(s, look) ? weight(momentum, shift, look) : 0,
      noise = jitter(momentum, look, SIZE);
    return (
      `After ${look} updates the start weighs ${percent(start)}${old ? `, all before the shift ${percent(old)}` : ""}; the stored mean jitters by ${percent(noise)} of the data's sd. ` +
      `Eval makes ${fixed(evaluate(IMAGE, remember(batches(s), variances, momentum)[look - 1]))} of the input ${IMAGE}; right is ${fixed(right(s, look))}.${Math.max(noise, start, old) < 0.05 ? " All under 5 %: the goal!" : ""}`
    );
  },
});
