"use strict";
// Searching and sorting. A query's words are beginnings of words of labels, layers, recipes and model ids, as on the command line.

{
  function fold(text) {
    return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  }

  function words(text) {
    return fold(text).match(/[\p{L}\p{N}]+/gu) ?? [];
  }

  const cache = new WeakMap();
  function once(thing, make) {
    if (!cache.has(thing)) cache.set(thing, make());
    return cache.get(thing);
  }

  const placesOf = (card) => once(card, () => ({
    model: words(card.name),
    all: new Set([card.name, ...card.layers, ...card.recipes, ...card.labels.map(([text]) => text), ...card.bare, card.composites ? "composite" : ""].flatMap(words)),
  }));
  const layerWords = (layer) => once(layer, () => words(layer.name));
  const recipeWords = (recipe) => once(recipe, () => words(recipe.slug));
  const labelWords = (label) => once(label, () => words(label.text));

  const begins = (tokens, word) => {
    for (const token of tokens) if (token.startsWith(word)) return true;
    return false;
  };

  // Whether a checkpoint can hold what is asked for, by what the index says of it.
  function mayHold(card, state) {
    const { all } = placesOf(card);
    return (
      (!state.family || card.denoiser === state.family) &&
      (!state.kind || card.kinds.includes(state.kind)) &&
      (!state.recipe || card.recipes.includes(state.recipe)) &&
      (!state.source || card.sources.includes(state.source)) &&
      (!state.min || (card.confidence ?? -1) >= Number(state.min)) &&
      (state.named !== "yes" || card.named > 0) &&
      (!state.of || (state.of === "composites" ? card.composites : card.directions) > 0) &&
      (!state.model || card.name === state.model) &&
      words(state.q ?? "").every((word) => begins(all, word))
    );
  }

  // How well a direction answers: 0 not at all; higher for labels, highest for a label of those very words.
  function score(direction, state, query) {
    if (state.of && (state.of === "composites") !== Boolean(direction.parts)) return 0;
    if (state.layer && direction.layer.name !== state.layer) return 0;
    if (state.recipe && direction.recipe.slug !== state.recipe) return 0;
    if (state.kind && direction.layer.kind !== state.kind) return 0;
    if (state.named === "yes" && !direction.labels.length) return 0;
    const min = state.min ? Number(state.min) : null;
    const labels = direction.labels.filter(
      (label) => (!state.source || label.source.kind === state.source) && (min === null || (label.confidence ?? -1) >= min),
    );
    if ((state.source || min !== null) && !labels.length) return 0;
    if (!query.length) return 1;
    let best = 0;
    for (const label of labels) {
      const own = labelWords(label);
      if (own.length === query.length && own.every((word, i) => word === query[i])) return 4;
      if (query.every((word) => begins(own, word))) best = 3;
    }
    if (best) return best;
    const places = [placesOf(direction.set.card).model, layerWords(direction.layer), recipeWords(direction.recipe), ...labels.map(labelWords)];
    return query.every((word) => places.some((tokens) => begins(tokens, word))) ? 1 : 0;
  }

  const ORDERS = {
    match: (a, b) => b.score - a.score || pictured(b) - pictured(a) || b.worth - a.worth || b.share - a.share,
    best: (a, b) => b.worth - a.worth || b.share - a.share,
    confidence: (a, b) => b.confidence - a.confidence || b.worth - a.worth || b.share - a.share,
    strength: (a, b) => strength(b) - strength(a),
    share: (a, b) => (b.share ?? -1) - (a.share ?? -1),
    eigenvalue: (a, b) => (b.eigenvalue ?? -1) - (a.eigenvalue ?? -1),
  };
  const pictured = (direction) => (direction.picture ? 1 : 0);
  const strength = (direction) => direction.quality?.values[0] ?? Math.max(-1, ...direction.labels.map((label) => Math.abs(label.evidence?.effect ?? -1)));

  function find(sets, state) {
    const query = words(state.q ?? "");
    const found = [];
    for (const set of sets) {
      for (const direction of set.sliders) {
        const points = score(direction, state, query);
        if (points) {
          direction.score = points;
          found.push(direction);
        }
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

  Object.assign(eigenbank, { mayHold, find, sorted, sortedCards, orders: Object.keys(ORDERS), cardOrders: Object.keys(CARDS), words });
}
