"use strict";
// The data: an index that comes with the page, and a file per set, read when it is first needed.

{
  const sets = new Map();
  const waiting = new Map();
  let index = null;

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
    sets.set(name, decode(cardOf(name), value));
    waiting.get(name)?.resolve(sets.get(name));
  }

  function cardOf(slug) {
    return index.sets.find((card) => card.slug === slug);
  }

  // A set with all its directions; rejected where its file is missing.
  function load(slug) {
    if (sets.has(slug)) return Promise.resolve(sets.get(slug));
    if (waiting.has(slug)) return waiting.get(slug).promise;
    const entry = {};
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    waiting.set(slug, entry);
    const script = document.createElement("script");
    const url = `data/${slug}.js`;
    script.src = policy ? policy.createScriptURL(url) : url;
    script.onerror = () => {
      waiting.delete(slug);
      script.remove();
      entry.reject(new Error(`${url} is missing or damaged`));
    };
    script.onload = () => {
      script.remove();
      if (!sets.has(slug)) script.onerror();
    };
    document.head.append(script);
    return entry.promise;
  }

  function decode(card, raw) {
    const set = { card, layers: raw.layers, recipes: raw.recipes, directions: [], composites: [], byId: new Map() };
    const { sources, protocols } = raw;
    for (const [number, row] of raw.directions.entries()) {
      const [layer, recipe, rank, eigenvalue, share, gap, labels, quality, preview] = row;
      const direction = { set, number, layer: raw.layers[layer], recipe: raw.recipes[recipe], rank, eigenvalue, share, gap, parts: null };
      direction.id = `${direction.layer.name}/${direction.recipe.slug}/${rank}`;
      set.directions.push(finish(direction, labels, quality, preview));
    }
    for (const [number, [name, parts, exportable, labels, quality, preview]] of raw.composites.entries()) {
      const composite = { set, number: set.directions.length + number, rank: null, eigenvalue: null, share: null, gap: null };
      composite.id = `composite/${name}`;
      composite.layer = { name: "composite", kind: "composite" };
      composite.recipe = { slug: name, exportable };
      composite.parts = parts.map(([place, weight]) => ({ direction: set.directions[place], weight }));
      set.composites.push(finish(composite, labels, quality, preview));
    }
    set.sliders = [...set.directions, ...set.composites];

    // What directions and composites have in common.
    function finish(slider, labels, quality, preview) {
      slider.key = `${card.name}#${slider.id}`;
      slider.labels = labels.map((label) => decodeLabel(label, sources, protocols));
      slider.confidence = Math.max(-1, ...slider.labels.map((label) => label.confidence ?? -1));
      slider.quality = quality && { values: quality[0], range: quality[1], source: sources[quality[2]], protocol: protocols[quality[3]] };
      slider.polarity = slider.labels[0]?.polarity ?? 1;
      slider.picture = preview === null ? null : picture(card.slug, slider.number, raw.previews[preview], slider.polarity);
      set.byId.set(slider.id, slider);
      return slider;
    }
    return set;
  }

  function decodeLabel([text, polarity, confidence, source, created, note, evidence], sources, protocols) {
    const label = { text, polarity, confidence, source: sources[source], created, note, evidence: null };
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

  Object.assign(eigenbank, { receive, load, picture, index: () => index });
}
