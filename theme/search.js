// The book's own search, made to take pasted error messages.
//
// Sphinx shows a page only if it holds every word of the query. A pasted
// message has words of its own: a path, a variable, another version's wording.
// So (1) headings that share most of their words with the query come first,
// with their anchor; (2) where no page has all words, those with most of them
// are shown. Numbers count for nothing, in Sphinx as here.
//
// This replaces two functions of Sphinx 7.4's searchtools.js; should another
// version name them otherwise, tests/test_search.py fails.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return; // not the search page

  const ENOUGH_WORDS = 3; // that a heading shares with the query
  const ENOUGH_OF_HEADING = 0.5; // share of its words, by weight
  const ENOUGH_OF_QUERY = 0.5; // share of its words on a page, by weight

  const stemmer = new Stemmer();
  const words = (text) =>
    new Set(
      splitQuery(text.toLowerCase())
        .filter((word) => !stopwords.includes(word) && !/^\d+$/.test(word))
        .map((word) => stemmer.stemWord(word)),
    );
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

  // A word is worth more the fewer of the `total` headings or pages have it.
  const weigh = (sets) => {
    const count = new Map();
    for (const set of sets)
      for (const word of set) count.set(word, (count.get(word) ?? 0) + 1);
    return (word) => Math.log(1 + sets.length / (count.get(word) ?? sets.length));
  };

  const matchingHeadings = (query) => {
    const { alltitles, titles, docnames, filenames } = Search._index;
    const asked = words(query);
    const headings = Object.entries(alltitles).map(([title, places]) => ({
      title,
      places,
      words: [...words(title)],
    }));
    const weight = weigh(headings.map((heading) => heading.words));
    const found = [];
    for (const { title, places, words } of headings) {
      const shared = words.filter((word) => asked.has(word));
      const worth = sum(shared.map(weight));
      const share = worth / sum(words.map(weight));
      if (shared.length < ENOUGH_WORDS || share < ENOUGH_OF_HEADING) continue;
      for (const [file, id] of places)
        found.push([
          docnames[file],
          titles[file] === title ? title : `${titles[file]} > ${title}`,
          id === null ? "" : `#${id}`,
          null,
          100 + worth * share, // above whatever Sphinx gives
          filenames[file],
        ]);
    }
    const best = Math.max(...found.map((result) => result[4]));
    return found.filter((result) => result[4] - 100 > (best - 100) / 2);
  };

  const matchingPages = (terms) => {
    const { docnames, filenames, titles } = Search._index;
    const pages = docnames.map(() => new Set());
    for (const term of terms)
      for (const [, , , , , file] of strictly(new Set([term]), new Set()))
        pages[filenames.indexOf(file)].add(term);
    const weight = weigh(pages);
    const all = sum([...terms].map(weight));
    return pages.flatMap((found, file) => {
      const share = sum([...found].map(weight)) / all;
      if (share < ENOUGH_OF_QUERY) return [];
      const result = [docnames[file], titles[file], "", null];
      return [[...result, Scorer.term * share, filenames[file]]];
    });
  };

  const strictly = Search.performTermsSearch;
  Search.performTermsSearch = (terms, excluded) => {
    // "constructor" would find a function of every object, and an error.
    terms = new Set([...terms].filter((term) => !(term in Object.prototype)));
    const results = strictly(terms, excluded);
    return results.length ? results : matchingPages(terms);
  };

  const perform = Search._performSearch;
  Search._performSearch = (query, ...rest) => {
    const headings = matchingHeadings(query);
    const place = (result) => result[0] + result[2];
    const known = new Set(headings.map(place));
    const others = perform(query, ...rest);
    // The last is shown first.
    return [
      ...others.filter((result) => !known.has(place(result))),
      ...headings.sort((a, b) => a[4] - b[4]),
    ];
  };
});
