// Which cells share a mean and a variance? A cell is [image, channel, position].
const together = {
  batch: (a, b) => a[1] === b[1],
  instance: (a, b) => a[0] === b[0] && a[1] === b[1],
  group: (a, b, size) => a[0] === b[0] && Math.floor(a[1] / size) === Math.floor(b[1] / size),
  layer: (a, b) => a[0] === b[0],
  RMS: (a, b) => a[0] === b[0] && a[2] === b[2],
};
const cells = ({ images, channels, positions }) =>
  range(0, images * channels * positions - 1).map((i) => [
    Math.floor(i / positions / channels),
    Math.floor(i / positions) % channels,
    i % positions,
  ]);
const setOf = (s, norm, cell) =>
  norm === "group" && s.channels % s.groups
    ? []
    : cells(s).filter((b) => together[norm](cell, b, s.channels / s.groups));
// How PyTorch's message begins, where it refuses the shape in training.
const refusal = ({ norm, images, channels, positions, groups }) => {
  if (norm === "instance" && positions === 1)
    return "Expected more than 1 spatial element when training";
  // Of group norm it asks this for all images taken together, and first.
  const values =
    { batch: images, group: Math.floor((images * channels) / groups) }[norm] * positions;
  if (values === 1) return "Expected more than 1 value per channel when training";
  return norm === "group" && channels % groups
    ? "Expected number of channels in input to be divisible by num_groups"
    : "";
};

const chosen = (s) => [s.image, s.channel, s.position].map((v) => v - 1);
const grid = ({ channels, positions }, width) => {
  const high = positions > 2 ? 2 : 1,
    wide = positions / high; // of one channel of an image
  const side = Math.min(28, (width - 32) / (channels * wide));
  return {
    high,
    wide,
    side,
    at: ([n, c, p]) => [
      2 + c * (wide * side + 7) + (p % wide) * side,
      24 + n * (high * side + 7) + Math.floor(p / wide) * side,
    ],
  };
};

figure({
  name: "sets",
  title: "A batch of images, cell by cell; filled cells share a mean and a variance",
  hint: "Press on a cell, or press Tab and arrow keys.",
  points: {
    image: ["Cell of image", range(1, 4), 1, String],
    channel: ["Cell of channel", range(1, 4), 1, String],
    position: ["Cell at position", range(1, 4), 1, String],
  },
  controls: {
    norm: ["norm", Object.keys(together), "batch"],
    images: ["images N", range(1, 4), 4, String],
    channels: ["channels C", range(1, 4), 4, String],
    positions: [
      "positions H × W",
      [1, 2, 4],
      4,
      (v) => ({ 1: "1 × 1", 2: "1 × 2", 4: "2 × 2" })[v],
    ],
    groups: ["groups (of group norm)", range(1, 4), 2, String],
  },
  anywhere: true,
  where(s, width) {
    for (const k of ["image", "channel", "position"]) s[k] = Math.min(s[k], s[k + "s"]); // fewer than before?
    const { at, side } = grid(s, width),
      here = at(chosen(s)).map((v) => v + side / 2);
    return { image: here, channel: here, position: here };
  },
  drag(s, k, x, y, width) {
    const { at, side } = grid(s, width),
      far = (cell) => Math.hypot(at(cell)[0] + side / 2 - x, at(cell)[1] + side / 2 - y);
    [s.image, s.channel, s.position] = cells(s)
      .reduce((a, b) => (far(b) < far(a) ? b : a))
      .map((v) => v + 1);
  },
  draw(s, width) {
    const { at, side } = grid(s, width),
      lit = setOf(s, s.norm, chosen(s)).map(String);
    return [
      284,
      `<text y=14>images ↓ channels →</text>` +
        cells(s)
          .map((cell) => {
            const [x, y] = at(cell),
              here = `${cell}` === `${chosen(s)}`;
            return (
              `<path class=soft d="M${x} ${y}h${side}v${side}h${-side}z"/>` +
              (lit.includes(`${cell}`)
                ? `<path class=bn d="M${x + 4} ${y + 4}h${side - 8}v${side - 8}h${8 - side}z"/>`
                : "") +
              (here ? `<path class=line d="M${x} ${y}h${side}v${side}h${-side}z"/>` : "")
            );
          })
          .join(""),
    ];
  },
  say(s) {
    const set = setOf(s, s.norm, chosen(s)),
      { high, wide } = grid(s, 0),
      why = refusal(s);
    const [n, c, p] = [0, 1, 2].map((axis) => new Set(set.map((cell) => cell[axis])).size);
    const same = Object.keys(together).filter(
      (norm) => norm !== s.norm && norm !== "RMS" && `${setOf(s, norm, chosen(s))}` === `${set}`,
    );
    return (
      (set[0]
        ? `${set.length} of ${cells(s).length} cells: images × channels × positions ${n} × ${c} × ${p}${same[0] ? `, as in ${same.join(" and ")} norm` : ""}. `
        : `${s.channels} channels do not make ${s.groups} equal groups. `) +
      `Shape (${s.images}, ${s.channels}, ${high}, ${wide}): PyTorch ${why ? `refuses it: “${why}…”` : "takes it."}`
    );
  },
});
