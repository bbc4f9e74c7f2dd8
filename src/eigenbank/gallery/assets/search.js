"use strict";
// Searching and sorting, by the rules of eigenbank.registry.ranking: the words of labels and names come with the data, those of a
// query are made here. A test holds the two together.

{
  // Text as it is compared. Accents are taken off Latin, Greek and Cyrillic letters only.
  function normalise(text) {
    let plain = "";
    for (const char of text.normalize("NFKC")) {
      if (/\p{Cc}/u.test(char)) plain += " ";
      else if (!/[\p{Cf}\u180b-\u180d\ufe00-\ufe0f\u{e0100}-\u{e01ef}]/u.test(char)) plain += char.toLowerCase().toUpperCase().toLowerCase();
    }
    return plain.normalize("NFKC").normalize("NFD")
      .replace(/((?=\p{Ll})[\p{Script=Latin}\p{Script=Greek}\p{Script=Cyrillic}])\p{M}+/gu, "$1").normalize("NFC");
  }

  // Words of a text. A character of a script without blanks, or a symbol, is one by itself.
  function words(text) {
    const { unspaced } = eigenbank.index();
    const word = new RegExp(`(?:[\\p{So}\\p{Emoji_Modifier}]|(?=[\\p{L}\\p{N}])[${unspaced}])\\p{M}*|(?:(?![${unspaced}])[\\p{L}\\p{N}]\\p{M}*)+`, "gu");
    return normalise(text).match(word) ?? [];
  }

  // Words as the data has them, in one string.
  const split = (own) => (own ? own.split(" ") : []);

  // A query's words, and its terms: words that must stand next to each other, the last one open unless it was typed in quotes.
  let parsed = { text: null };
  function parse(text) {
    if (text === parsed.text) return parsed;
    const terms = [];
    for (const [, quoted, bare] of normalise(text).matchAll(/"([^"]*)"?|([^\s"]+)/g)) {
      const own = words(quoted || bare || "");
      if (own.length) terms.push({ words: own, prefix: !quoted });
    }
    parsed = { text, words: terms.flatMap((term) => term.words), terms };
    return parsed;
  }

  // Whether the words of a text hold a term.
  function holds(text, { words: own, prefix }) {
    const last = own.length - 1;
    for (let start = 0; start + last < text.length; start += 1) {
      const end = text[start + last];
      if ((end === own[last] || (prefix && end.startsWith(own[last]))) && own.every((word, i) => i === last || text[start + i] === word)) return true;
    }
    return false;
  }

  // How well the words of a label and of the names match, 0 (not at all) to 5 (the label is the query).
  function level(query, text, names) {
    if (text.length === query.words.length && text.every((word, i) => word === query.words[i])) return 5;
    if (query.terms.every((term) => holds(text, { ...term, prefix: false }))) return 4;
    const missing = query.terms.filter((term) => !holds(text, term));
    if (!missing.length) return 3;
    if (!missing.every((term) => names.some((name) => holds(name, term)))) return 0;
    return missing.length < query.terms.length ? 2 : 1;
  }

  // Whether a checkpoint can hold what is asked for, by what the index says of it.
  function mayHold(card, state) {
    card.all ??= split(card.words);
    return (
      (!state.family || card.denoiser === state.family) &&
      (!state.kind || card.kinds.includes(state.kind)) &&
      (!state.recipe || card.recipes.includes(state.recipe)) &&
      (!state.source || card.sources.includes(state.source)) &&
      (!state.min || (card.confidence ?? -1) >= Number(state.min)) &&
      (state.named !== "yes" || card.named > 0) &&
      (!state.of || (state.of === "composites" ? card.composites : card.directions) > 0) &&
      (!state.model || card.name === state.model) &&
      parse(state.q ?? "").words.every((word) => card.all.some((own) => own.startsWith(word)))
    );
  }

  // Whether a checkpoint's model id alone has all that is asked for.
  function isNamed(card, text) {
    const { terms } = parse(text);
    return terms.length > 0 && terms.every((term) => holds(split(card.modelWords), term));
  }

  // How well a direction answers, as [level, worth of the label]; null where it does not.
  function match(direction, state, query) {
    if (state.of && (state.of === "composites") !== Boolean(direction.parts)) return null;
    if (state.layer && direction.layer.name !== state.layer) return null;
    if (state.recipe && direction.recipe.slug !== state.recipe) return null;
    if (state.kind && direction.layer.kind !== state.kind) return null;
    if (state.named === "yes" && !direction.labels.length) return null;
    const min = state.min ? Number(state.min) : null;
    const labels = direction.labels.filter(
      (label) => (!state.source || label.source.kind === state.source) && (min === null || (label.confidence ?? -1) >= min),
    );
    if ((state.source || min !== null) && !labels.length) return null;
    if (!state.q) return [0, direction.worth];
    if (!query.terms.length) return null;
    const names = [split(direction.set.card.modelWords), direction.words];
    let best = [level(query, [], names), 0];
    for (const label of labels) {
      const found = level(query, label.words, names);
      if (found > 1 && (found > best[0] || (found === best[0] && label.worth > best[1]))) best = [found, label.worth];
    }
    return best[0] ? best : null;
  }

  const ORDERS = {
    match: (a, b) => b.match[0] - a.match[0] || b.match[1] - a.match[1] || inCatalog(a, b),
    best: (a, b) => b.worth - a.worth || b.share - a.share,
    confidence: (a, b) => b.confidence - a.confidence || b.worth - a.worth || b.share - a.share,
    strength: (a, b) => strength(b) - strength(a),
    share: (a, b) => (b.share ?? -1) - (a.share ?? -1),
    eigenvalue: (a, b) => (b.eigenvalue ?? -1) - (a.eigenvalue ?? -1),
  };
  const inCatalog = (a, b) => a.set.card.order - b.set.card.order || a.number - b.number;
  const strength = (direction) => direction.quality?.values[0] ?? Math.max(-1, ...direction.labels.map((label) => Math.abs(label.evidence?.effect ?? -1)));

  function find(sets, state) {
    const query = parse(state.q ?? "");
    const found = [];
    for (const set of sets) {
      for (const direction of set.sliders) {
        direction.match = match(direction, state, query);
        if (direction.match) found.push(direction);
      }
    }
    return found;
  }

  function sorted(directions, order) {
    return [...directions].sort(ORDERS[order] ?? ORDERS.match);
  }

  const CARDS = {
    name: (a, b) => a.name.localeCompare(b.name, "en"),
    named: (a, b) => b.named - a.named || b.directions - a.directions,
    directions: (a, b) => b.directions - a.directions,
    newest: (a, b) => b.created.localeCompare(a.created),
  };

  function sortedCards(cards, order) {
    return [...cards].sort(CARDS[order] ?? CARDS.named);
  }

  Object.assign(eigenbank, { split, words, mayHold, isNamed, find, sorted, sortedCards });
}
