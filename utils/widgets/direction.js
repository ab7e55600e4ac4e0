// Batch norm of z = X w without epsilon, then half the mean squared error.
// points: [x1, x2, what the output should be]; returns [loss, gradient].
const lossOf = ([a, b], points) => {
  const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;
  const z = points.map(([x1, x2]) => a * x1 + b * x2),
    centre = mean(z);
  const sd = Math.sqrt(mean(z.map((v) => (v - centre) ** 2)));
  const y = z.map((v) => (v - centre) / sd),
    off = y.map((v, i) => v - points[i][2]);
  const slope = mean(off.map((v, i) => v * y[i])),
    level = mean(off);
  const back = off.map((v, i) => (v - level - y[i] * slope) / sd);
  return [
    mean(off.map((v) => v * v)) / 2,
    [0, 1].map((j) => mean(back.map((v, i) => v * points[i][j]))),
  ];
};
const stepped = (w, gradient, rate, decay) =>
  w.map((v, j) => (1 - rate * decay) * v - rate * gradient[j]);
const turned = ([a, b], [c, d]) =>
  Math.abs(Math.atan2(a * d - b * c, a * c + b * d) * 180) / Math.PI;

// What the weights should find: the direction (0.6, 0.8), under noise.
const point = (i) => {
  const [x1, x2, noise] = [0, 1, 2].map((j) => normal(3 * i + j));
  return [x1, x2, 0.6 * x1 + 0.8 * x2 + noise];
};
const data = range(1, 200).map(point);
let trail = []; // degrees by which each step turned
const weights = ({ angle, size }) =>
  [Math.cos, Math.sin].map((f) => size * f((angle * Math.PI) / 180));
const shade = range(0, 71).map(
  (k) => (lossOf(weights({ angle: 5 * k, size: 1 }), data)[0] - 0.4) / 3,
);
const gradient = (s) =>
  lossOf(
    weights(s),
    range(1, 8).map((i) => point(200 + 8 * trail.length + i)),
  )[1];
const next = (s) => stepped(weights(s), gradient(s), s.rate, s.decay);
const degrees = ([a, b]) => (Math.atan2(b, a) * 180) / Math.PI;
const edge = (s) => 2 ** Math.max(1, Math.ceil(Math.log2(s.size * 1.1))); // length at the plane's rim
const R = 115,
  M = 122; // its radius and its middle, in pixels

figure({
  name: "direction",
  title: "Two weights as an arrow; shade: the loss in each direction",
  hint: "Drag the tip, or press Tab and arrow keys. Green: against the gradient.",
  points: {
    angle: ["Direction of the weights", range(-179, 180), -20, (v) => `${fixed(v, 0)} degrees`],
    size: [
      "Length of the weights",
      range(-40, 200).map((k) => +(1.05 ** k).toPrecision(3)),
      1,
      (v) => fixed(v),
    ],
  },
  controls: {
    rate: ["rate η", [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10], 0.1, String],
    decay: ["weight decay λ", [0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1], 0, String],
  },
  where(s) {
    const [a, b] = weights(s).map((v) => (v * R) / edge(s));
    return { angle: [M + a, M - b], size: [M + a, M - b] };
  },
  drag(s, k, x, y) {
    s.angle = degrees([x - M, M - y]);
    s.size = clamp((Math.hypot(x - M, y - M) / R) * edge(s), 0.15, edge(s) / 1.1);
  },
  forget: () => (trail = []),
  button: "100 steps",
  times: 100,
  click(s) {
    const w = next(s);
    trail.push(turned(weights(s), w));
    s.angle = degrees(w);
    s.size = Math.hypot(...w);
  },
  draw(s, width) {
    const rim = edge(s),
      w = weights(s),
      side = width > 520,
      left = side ? 300 : 34,
      top = side ? 20 : 276,
      wide = width - left;
    const pixel = ([a, b]) => `${(M + (a * R) / rim).toFixed(1)} ${(M - (b * R) / rim).toFixed(1)}`;
    const on = (angle, size) => pixel(weights({ angle, size }));
    const y = (v) => top + 100 - 50 * clamp(Math.log10(v), -0.5, 2);
    return [
      side ? 250 : 406,
      shade
        .map(
          (v, k) =>
            `<polygon opacity=${v.toFixed(2)} points="${M} ${M} ${on(5 * k - 2.5, rim)} ${on(5 * k + 2.5, rim)}"/>`,
        )
        .join("") +
        [1, 0.5]
          .map(
            (r) =>
              `<circle class="ring grey" cx=${M} cy=${M} r=${R * r} /><text x=${M + 2} y=${M + R * r - 3}>${rim * r}</text>`,
          )
          .join("") +
        `<path class="third line" d="M${pixel(w)}L${pixel(stepped(w, gradient(s), 1, 0))}"/><path class="bn line" d="M${M} ${M}L${pixel(w)}"/><circle class=bn cx=${pixel(w).replace(" ", " cy=")} r=6 />` +
        [1, 10, 100]
          .map(
            (v) =>
              `<text x=${left - 4} y=${y(v) + 4} text-anchor=end>${v}°</text><path class=soft d="M${left} ${y(v)}h${wide}"/>`,
          )
          .join("") +
        `<path class=dash d="M${left} ${y(5)}h${wide}"/><text x=${width} y=${y(5) - 4} text-anchor=end>goal 5°</text><text x=${left} y=${top - 6} font-weight=bold>angle of each step</text>` +
        trail
          .slice(-300)
          .map((v, i) => `<circle class=bn cx=${left + (i * wide) / 300} cy=${y(v)} r=2 />`)
          .join(""),
    ];
  },
  say(s) {
    const w = weights(s),
      last = trail.slice(-50),
      angle = Math.hypot(...last) / Math.sqrt(last.length);
    return (
      `Length ${fixed(s.size)}, effective rate η/length² ${+(s.rate / s.size ** 2).toPrecision(2)}, loss ${fixed(lossOf(w, data)[0])}. The next step turns it by ${fixed(turned(w, next(s)), 1)}°.` +
      (last[0]
        ? ` Of ${trail.length} steps the last ${last.length}: ${fixed(angle, 1)}° each (root mean square)${trail.length > 299 && Math.abs(angle - 5) < 1 ? ", the goal!" : "."}`
        : "")
    );
  },
});
