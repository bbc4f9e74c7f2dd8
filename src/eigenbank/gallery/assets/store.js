"use strict";
// The data: an index with the first cards, which comes with the page; files of further cards, and one a set with its
// directions, read when they are first needed.

{
  const read = new Map();
  const waiting = new Map();
  let index = null;
  let pages = 0;

  // Only files of ours can become scripts, whatever a page is told.
  const policy = window.trustedTypes?.createPolicy("eigenbank", {
    createScriptURL(url) {
      if (!/^data\/[a-z0-9-]+\.js$/.test(url)) throw new TypeError(`no file of this page: ${url}`);
      return url;
    },
  });

  function receive(name, value) {
    if (name === "index") {
      index = value;
      return;
    }
    read.set(name, value);
    waiting.get(name)?.resolve(value);
  }

  // A set with all its directions; rejected where its file is missing.
  async function load(card) {
    const value = await file(card.slug);
    card.set ??= decode(card, value);
    read.set(card.slug, null);
    return card.set;
  }

  // How many checkpoints there are whose cards are not read yet.
  const unread = () => index.total.sets - index.sets.length;

  // Read the next file of cards. What two ask for at once is read once, and put where it belongs once.
  async function moreCards() {
    const number = pages + 1;
    const cards = await file(`cards-${number}`);
    if (pages + 1 !== number) return;
    pages = number;
    index.sets.push(...cards);
  }

  // Read all cards there are.
  async function allCards() {
    const files = [];
    for (let number = pages + 1; number <= index.more; number += 1) files.push(file(`cards-${number}`));
    await Promise.all(files);
    while (unread()) await moreCards();
  }

  // The checkpoint of a name, or of a model id; undefined where there is none.
  async function cardNamed(name) {
    const known = () => index.sets.find((card) => card.name === name);
    while (!known() && unread()) await moreCards();
    return known() ?? index.sets.find((card) => card.model === name);
  }

  // The value in a file of data; rejected where it is missing.
  function file(name) {
    if (read.has(name)) return Promise.resolve(read.get(name));
    if (waiting.has(name)) return waiting.get(name).promise;
    const entry = {};
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    waiting.set(name, entry);
    const script = document.createElement("script");
    const url = `data/${name}.js`;
    script.src = policy ? policy.createScriptURL(url) : url;
    script.onerror = () => {
      waiting.delete(name);
      script.remove();
      entry.reject(new Error(`${url} is missing or damaged`));
    };
    script.onload = () => {
      script.remove();
      if (!read.has(name)) script.onerror();
    };
    document.head.append(script);
    return entry.promise;
  }

  function decode(card, raw) {
    const set = { card, layers: raw.layers, recipes: raw.recipes, directions: [], composites: [], byId: new Map() };
    const { sources, protocols, texts } = raw;
    for (const layer of raw.layers) layer.words = eigenbank.split(layer.words);
    for (const [number, row] of raw.directions.entries()) {
      const [layer, recipe, rank, eigenvalue, share, gap, labels, quality, preview] = row;
      const direction = { set, number, layer: raw.layers[layer], recipe: raw.recipes[recipe], rank, eigenvalue, share, gap, parts: null, within: [] };
      direction.words = direction.layer.words;
      direction.id = `${direction.layer.name}/${direction.recipe.slug}/${rank}`;
      set.directions.push(finish(direction, labels, quality, preview));
    }
    for (const [number, [name, own, parts, exportable, labels, quality, preview]] of raw.composites.entries()) {
      const composite = { set, number: set.directions.length + number, rank: null, eigenvalue: null, share: null, gap: null };
      composite.words = eigenbank.split(own);
      composite.id = name.startsWith("lora/") ? name : `composite/${name}`;
      composite.layer = { name: "composite", kind: "composite" };
      composite.recipe = { slug: name, exportable };
      composite.parts = parts.map(([place, weight]) => ({ direction: set.directions[place], weight }));
      for (const { direction, weight } of composite.parts) direction.within.push({ composite, weight });
      set.composites.push(finish(composite, labels, quality, preview));
    }
    set.sliders = [...set.directions, ...set.composites];

    // What directions and composites have in common.
    function finish(slider, labels, quality, preview) {
      slider.key = `${card.name}#${slider.id}`;
      slider.labels = labels.map((label) => decodeLabel(label, texts, sources, protocols));
      slider.confidence = Math.max(-1, ...slider.labels.map((label) => label.confidence ?? -1));
      slider.worth = Math.max(-1, ...slider.labels.map((label) => label.worth));
      slider.quality = quality && { values: quality[0], range: quality[1], source: sources[quality[2]], protocol: protocols[quality[3]] };
      slider.polarity = slider.labels[0]?.polarity ?? 1;
      slider.picture = preview === null ? null : picture(card.slug, slider.number, raw.previews[preview], slider.polarity);
      set.byId.set(slider.id, slider);
      return slider;
    }
    return set;
  }

  function decodeLabel([text, polarity, confidence, source, worth, created, note, evidence], texts, sources, protocols) {
    const label = { text: texts[text][0], words: eigenbank.split(texts[text][1]), polarity, confidence, source: sources[source], worth, created, note, evidence: null };
    if (evidence) {
      const [effect, selectivity, consistency, asymmetry, chance, runnerUp, runnerUpEffect, protocol] = evidence;
      label.evidence = { effect, selectivity, consistency, asymmetry, chance, runnerUp, runnerUpEffect, protocol: protocols[protocol] };
    }
    return label;
  }

  // A preview: a grid with a row per seed and a column per scale. Scales here are those shown: more is more of the label.
  function picture(slug, number, preview, polarity) {
    const columns = preview.scales.map((scale, column) => ({ stored: scale, scale: scale * polarity, column }));
    columns.sort((a, b) => a.scale - b.scale);
    return { url: `pictures/${slug}/${number}.webp`, seeds: preview.seeds, steps: preview.steps, cell: preview.cell, columns };
  }

  Object.assign(eigenbank, { receive, load, picture, unread, moreCards, allCards, cardNamed, index: () => index });
}
