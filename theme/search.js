// The search page. It ranks the sections of all pages (SECTIONS, which
// theme/course.py writes) by BM25F, as search engines do: a word counts more
// the fewer sections have it, the more often it stands in a section for its
// length, and most in a heading. A heading that is like the whole query adds.
//
// Everything is in SECTIONS, which this page alone loads: nothing is fetched.
// Words are cut to their stems by Sphinx's Stemmer (language_data.js).

const K1 = 1.2; // BM25: how soon the repetition of a word stops to count
// A section's texts: their weight, and b, how much length is held against them.
const FIELDS = {
  title: { weight: 6, b: 0.5 },
  trail: { weight: 1.5, b: 0.3 }, // the headings above
  message: { weight: 3, b: 0.5 },
  prose: { weight: 1, b: 0.75 },
  code: { weight: 0.3, b: 0.8 },
};
const PAIR = 0.6; // what two neighbours of the query add where they are neighbours
const NEARLY = 0.5; // what a word of NEAR is worth
const SUBJECT = new Set(["batch", "normalization"]); // what the whole book is about
const KINDS = [ // what is worth less, unless it is asked for: then it is worth more
  { is: /^Exercise/, asked: /exercise|solution/i, worth: 0.8, then: 1 },
  { is: /references\.html$/, asked: /author|literature|paper|reference/i, worth: 0.6, then: 2 },
  { is: /^References/, asked: /reference/i, worth: 0.6, then: 1 }, // a chapter's own
];
const PASTED = 10; // so many words are a message, and spelled as they are
const SHOWN = 20; // results
const SNIPPET = 220; // letters

// --- Words -----------------------------------------------------------------
const RAW = /\p{L}[\p{L}\p{N}]*|\d+(?:\.\d+)?\p{L}?/gu;

// Keep what a function returned for each argument: a book repeats its words.
function kept(compute) {
  const known = new Map();
  return (key) => {
    if (!known.has(key)) known.set(key, compute(key));
    return known.get(key);
  };
}

const american = (word) =>
  word
    .replace(/is(e|es|ed|er|ers|ing|ation|ations)$/, "iz$1")
    .replace(/(..)our(s|ed|al)?$/, "$1or$2")
    .replace(/^(cent|met)re/, "$1er");
const expand = (word) =>
  SAME.has(word) ? SAME.get(word).split(" ").flatMap(expand) : [word];
// The plain words of one of a text: "BatchNorm2d" is "batch", "normalization".
const plain = kept((raw) => {
  if (raw === "IN") return expand("instancenorm"); // "in" is a small word
  const whole = raw.replace(/[123]d$/, "");
  const parts = whole.replace(/(\p{Ll}{2})(\p{Lu}\p{Ll}{2})/gu, "$1 $2");
  const words = SAME.has(whole.toLowerCase()) ? whole : parts;
  return words.toLowerCase().split(" ").map(american).flatMap(expand);
});
const stemmer = new Stemmer();
const stem = kept((word) => (/^\d/.test(word) ? word : stemmer.stemWord(word)));
const wordsOf = (text) => (text.match(RAW) ?? []).flatMap(plain);
const stemsOf = (text) => wordsOf(text).map(stem);
const near = new Map();
for (const group of NEAR)
  for (const word of group)
    near.set(stem(word), group.filter((other) => other !== word).map(stem));

// --- The index ---------------------------------------------------------------
const vocabulary = new Map(); // plain word -> how often the book has it
// Stem -> the sections with it (number -> weighted count), and how many of them
// have it outside their code, where it may be anything.
const index = new Map();
const NOWHERE = { counts: new Map(), spoken: new Set() };
const look = (word) => index.get(word) ?? NOWHERE;
const add = (map, key, amount) => map.set(key, (map.get(key) ?? 0) + amount);

for (const [field, { weight, b }] of Object.entries(FIELDS)) {
  const texts = SECTIONS.map((section) => wordsOf([section[field]].flat().join(". ")));
  const mean = texts.flat().length / texts.length || 1;
  texts.forEach((words, i) => {
    const worth = weight / (1 - b + (b * words.length) / mean);
    for (const word of words) {
      add(vocabulary, word, 1);
      if (!index.has(stem(word)))
        index.set(stem(word), { counts: new Map(), spoken: new Set() });
      const { counts, spoken } = look(stem(word));
      add(counts, i, worth);
      if (field !== "code") spoken.add(i);
    }
    (SECTIONS[i].lines ??= []).push({ text: ` ${words.map(stem).join(" ")} `, worth });
  });
}
const rarity = (count) => Math.log(1 + (SECTIONS.length - count + 0.5) / (count + 0.5));
const often = (count) => ((K1 + 1) * count) / (K1 + count);

const inHeadings = new Map(); // stem -> how many headings have it
for (const section of SECTIONS) {
  // A page's title is its subject, a colon, and the question.
  const [subject] = section.trail.length ? [section.title] : section.title.split(": ");
  section.words = new Set(stemsOf(subject));
  for (const word of section.words) add(inHeadings, word, 1);
}
const worthOf = (words) =>
  words.reduce((sum, word) => sum + rarity(inHeadings.get(word) ?? 1), 0);
// The share of words that two headings have in common, by their rarity.
const likeness = (a, b) =>
  (2 * worthOf([...a].filter((word) => b.has(word)))) / worthOf([...a, ...b]);

// --- A query -----------------------------------------------------------------
// How many letters to insert, drop, replace or swap, if not above the limit.
function distance(a, b, limit) {
  let [before, row] = [[], [...Array(b.length + 1).keys()]];
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1] + (a[i - 1] !== b[j - 1]);
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, replaced);
      if (i > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        next[j] = Math.min(next[j], before[j - 2] + 1);
    }
    if (Math.min(...next) > limit) return Infinity;
    [before, row] = [row, next];
  }
  return row[b.length] > limit ? Infinity : row[b.length];
}

// The book's words that an unknown one was meant to be; none if there are none.
function respelled(word) {
  if (word.length < 4 || /\d/.test(word)) return [];
  for (let cut = 3; cut <= word.length - 3; cut++) {
    const parts = [word.slice(0, cut), word.slice(cut)].flatMap(plain);
    if (parts.every((part) => vocabulary.get(part) > 2)) return parts; // groupsize
  }
  const limit = word.length < 8 ? 1 : 2;
  let best = { miss: Infinity };
  for (const [other, count] of vocabulary) {
    const longer = other.length - word.length;
    if (other[0] !== word[0] || Math.abs(longer) > limit) continue;
    if (word.length === 4 && longer < 1) continue; // "shft", but "cast" is no "cost"
    const miss = distance(word, other, limit);
    if (miss < best.miss || (miss === best.miss && count > best.count))
      best = { other, miss, count };
  }
  if (best.other) return [best.other];
  const longer = [...vocabulary.keys()].filter((other) => other.startsWith(word));
  return longer.sort((a, b) => vocabulary.get(b) - vocabulary.get(a)).slice(0, 1);
}

// The query in words of the book, and the raw words that it changed or lacks.
function understand(query) {
  const raws = query.replace(/File "[^"]*", line \d+, in \S+/g, " ").match(RAW) ?? [];
  const asked = { words: [], changed: [], missing: [] };
  for (const raw of raws)
    for (const word of plain(raw)) {
      if (index.has(stem(word)) || near.has(stem(word)) || SMALL.has(word)) {
        asked.words.push(word);
        continue;
      }
      const meant = raws.length > PASTED ? [] : respelled(word);
      (meant.length ? asked.changed : asked.missing).push(raw);
      asked.words.push(...meant);
    }
  return asked;
}

// The sections that have any of the words, best first.
function find(words, query) {
  const scores = SECTIONS.map(() => 0);
  const line = words.map(stem);
  for (const word of new Set(line.filter((_, i) => !SMALL.has(words[i])))) {
    const { counts, spoken } = look(word);
    const weight = rarity(spoken.size) * (/^[\d.]+$/.test(word) ? 0.5 : 1);
    const worth = new Map();
    for (const [i, count] of counts) worth.set(i, often(count));
    for (const other of near.get(word) ?? [])
      for (const [i, count] of look(other).counts)
        worth.set(i, Math.max(worth.get(i) ?? 0, NEARLY * often(count)));
    for (const [i, value] of worth) scores[i] += weight * value;
  }
  const pairs = line.slice(1).map((word, i) => ` ${line[i]} ${word} `);
  const telling = pairs.filter((_, i) => !SMALL.has(words[i]) && !SMALL.has(words[i + 1]));
  for (const pair of new Set(telling)) {
    const counts = SECTIONS.map(({ lines }) =>
      lines.reduce((sum, { text, worth }) => sum + worth * (text.split(pair).length - 1), 0),
    );
    const weight = PAIR * rarity(counts.filter(Boolean).length);
    counts.forEach((count, i) => (scores[i] += weight * often(count)));
  }
  // The book's subject alone, "batch norm": pages' beginnings in their order.
  const bare = words.length && words.every((word) => SUBJECT.has(word));
  return SECTIONS.map((section, i) => {
    const heads = [section.page, section.title, ...section.trail];
    const kind = KINDS.find((k) => heads.some((head) => k.is.test(head)));
    const kindly = !kind ? 1 : kind.asked.test(query) ? kind.then : kind.worth;
    const alike = 1 + likeness(new Set(line), section.words);
    const opens = !section.trail.length;
    const score = scores[i] * alike * kindly;
    return { section, score: bare && opens ? 1000 - i : score };
  })
    .filter(({ score }) => score > 0)
    .sort((a, b) => b.score - a.score);
}

// --- The page ----------------------------------------------------------------
const element = (name, className, ...children) => {
  const node = document.createElement(name);
  node.className = className;
  node.append(...children);
  return node;
};

// The text with the words marked that were asked for.
function marked(text, isAsked) {
  const parts = [];
  let end = 0;
  for (const { 0: raw, index: start } of text.matchAll(RAW)) {
    if (!plain(raw).every(isAsked)) continue;
    parts.push(text.slice(end, start), element("mark", "", raw));
    end = start + raw.length;
  }
  return [...parts, text.slice(end)];
}

// A section's prose, from the sentence with most of what was asked.
function snippet({ prose }, isAsked) {
  const sentences = prose.split(/(?<=[.?!:]) (?=\p{Lu})/u);
  const worth = sentences.map((sentence) => {
    const found = new Set(wordsOf(sentence).filter(isAsked).map(stem));
    return [...found].reduce((sum, word) => sum + rarity(look(word).spoken.size), 0);
  });
  const text = sentences.slice(worth.indexOf(Math.max(...worth))).join(" ");
  return text.length > SNIPPET ? `${text.slice(0, text.lastIndexOf(" ", SNIPPET))} …` : text;
}

function summary({ words, changed, missing }, count) {
  const parts = [];
  if (changed.length) parts.push("Showing results for ", element("b", "", words.join(" ")), ". ");
  const unknown = [...changed, ...missing].map((word) => `“${word}”`);
  if (unknown.length) parts.push(`The book does not have ${unknown.join(", ")}. `);
  if (count > SHOWN) return [...parts, `The best ${SHOWN} of ${count} sections:`];
  return [...parts, count === 1 ? "1 section:" : `${count || "No"} sections${count ? ":" : "."}`];
}

function show(query) {
  const asked = understand(query);
  const found = query.trim() ? find(asked.words, query) : [];
  const stems = new Set(asked.words.filter((word) => !SMALL.has(word)).map(stem));
  const isAsked = (word) => stems.has(stem(word));
  const items = found.slice(0, SHOWN).map(({ section }) => {
    const link = element("a", "", ...marked(section.title, isAsked));
    link.href = `${section.page}#${section.anchor}`;
    const number = /\/(\d\d)_/.exec(section.page)?.[1];
    const trail = [...(number ? [`Chapter ${Number(number)}`] : []), ...section.trail];
    return element("li", "", link,
      element("p", "search-trail", trail.join(" › ")),
      element("p", "search-snippet", ...marked(snippet(section, isAsked), isAsked)));
  });
  document.querySelector("ul.search").replaceChildren(...items);
  const said = query.trim() ? summary(asked, found.length) : [];
  document.querySelector(".search-summary").replaceChildren(...said);
}

if (typeof document !== "undefined") {
  const field = document.querySelector(".bd-search-container input");
  field.addEventListener("input", () => show(field.value));
  show(field.value);
}
