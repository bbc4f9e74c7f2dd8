"use strict";
// The pieces that several views are made of.

{
  const { h, quote, breakable, number, percent, link, scrubber } = eigenbank;

  const titleOf = (direction) => direction.labels[0]?.text ?? null;

  function plainName(direction) {
    return titleOf(direction) ?? `${direction.id}`;
  }

  function compositeOf({ parts }) {
    if (!parts.length) return "LoRA, trained by its author";
    const layers = new Set(parts.map(({ direction }) => direction.layer)).size;
    return `composite of ${eigenbank.count(parts.length, "direction")} of ${eigenbank.count(layers, "layer")}`;
  }

  function linkTo(direction) {
    return link({ direction: direction.key });
  }

  // The recommended range in the scales shown; null where it was not measured.
  function rangeOf(direction) {
    const range = direction.quality?.range;
    if (!range) return null;
    return direction.polarity > 0 ? range : [-range[1], -range[0]];
  }

  // Where a slider stands at first: within the recommended range if that is known, else at 1.
  function startOf(direction) {
    const range = rangeOf(direction);
    return range && range[1] > 0 ? Math.min(range[1], 1.5) : 1;
  }

  function measureWord(measure, value) {
    return measure.words.find(([below]) => below === null || value < below)[1];
  }

  // One direction among many: its pictures with their slider, its name, where it is from.
  function directionCard(direction, { model = false } = {}) {
    const title = titleOf(direction);
    const heading = h("h3", { class: "name" }, h("a", { href: linkTo(direction) }, title ? quote(title) : direction.parts ? breakable(direction.id) : `rank ${direction.rank}`));
    const place = direction.parts ? compositeOf(direction)
      : [breakable(direction.layer.name), " · ", breakable(direction.recipe.slug), title ? ` · rank\u00a0${direction.rank}` : null];
    const where = h("p", { class: "where" }, model ? [breakable(direction.set.card.name), " · "] : null, place);
    const facts = h("p", { class: "facts" }, cardFacts(direction));
    const picture = direction.picture
      ? scrubber(direction.picture, { name: plainName(direction), start: startOf(direction), range: rangeOf(direction) }).root
      : null;
    return h("article", { class: direction.picture ? "card" : "card bare", "data-id": direction.id }, picture,
      h("div", { class: "words" }, heading, where, facts));
  }

  // What a label's confidence means, rounded down: 99.6 % is not certainty.
  function confidence(label) {
    if (label.confidence === null) return "no confidence stated";
    const share = `${Math.floor(label.confidence * 100 + 1e-9)} %`;
    return label.evidence ? `name held in ${share} of resamples` : `${share} confidence, as stated`;
  }

  function cardFacts(direction) {
    const facts = [];
    const [label] = direction.labels;
    if (label) facts.push(label.confidence === null ? `named by ${label.source.words}` : confidence(label));
    else facts.push("unnamed");
    const measures = eigenbank.index().measures;
    if (direction.quality) {
      for (const place of [0, 1]) {
        const value = direction.quality.values[place];
        if (value !== null) facts.push(measureWord(measures[place], value));
      }
    }
    if (direction.share !== null) facts.push(`${percent(direction.share)} of its spectrum`);
    if (!direction.picture) facts.push("no picture drawn");
    return facts.join(" · ");
  }

  // The eigenvalues of a layer and recipe, the largest first, each a link; `chosen` is marked.
  function spectrum(directions, { chosen = null, most = 64, name }) {
    const at = Math.max(0, directions.findIndex((direction) => direction === chosen));
    const first = Math.max(0, Math.min(at - most / 2, directions.length - most));
    const shown = directions.slice(first, first + most);
    const top = Math.max(...shown.map((direction) => direction.eigenvalue), 1e-300);
    const bars = shown.map((direction) => {
      const kind = [direction === chosen && "chosen", direction.labels.length && "named", direction.picture && "pictured"];
      const label = titleOf(direction);
      const text = `rank ${direction.rank}${label ? `, ${label}` : ""}: eigenvalue ${number(direction.eigenvalue)}, ${percent(direction.share)}`;
      return h("li", null, h("a", { href: linkTo(direction), class: kind.filter(Boolean).join(" "), "--size": direction.eigenvalue / top,
        title: text, "aria-label": text, "aria-current": direction === chosen && "true", "data-id": direction.id }));
    });
    const all = directions.reduce((sum, direction) => sum + direction.share, 0);
    const part = shown.length < directions.length ? `ranks ${shown[0].rank} to ${shown.at(-1).rank} of ${directions.length}; ` : "";
    return h("figure", { class: "spectrum" }, h("ol", { "aria-label": `Eigenvalues of ${name}` }, bars),
      h("figcaption", null, part, `${directions.length === 1 ? "1 eigenvalue holds" : `${directions.length} eigenvalues hold`} ${percent(Math.min(1, all))} of the spectrum`));
  }

  // Directions of a set by layer, and within one by recipe, in the set's order; ranks ascending.
  function byLayer(directions) {
    const layers = new Map();
    for (const direction of directions) {
      if (!layers.has(direction.layer)) layers.set(direction.layer, new Map());
      const recipes = layers.get(direction.layer);
      if (!recipes.has(direction.recipe)) recipes.set(direction.recipe, []);
      recipes.get(direction.recipe).push(direction);
    }
    for (const recipes of layers.values()) for (const members of recipes.values()) members.sort((a, b) => a.rank - b.rank);
    return layers;
  }

  // A direction's quality as bars with words; what was not measured says so.
  function quality(direction) {
    const found = direction.quality;
    const rows = eigenbank.index().measures.map((measure, place) => {
      const value = found?.values[place] ?? null;
      const known = value !== null;
      return h("div", { class: known ? "measure" : "measure unknown" },
        h("dt", null, measure.title),
        h("dd", null,
          known && h("span", { class: "bar", "--fill": Math.min(1, value / measure.full), "aria-hidden": "true" }),
          h("span", { class: "word" }, known ? measureWord(measure, value) : "not measured"),
          h("span", { class: "exact", title: measure.about }, known ? `${number(measure.unit.startsWith(" %") ? value * 100 : value)}${measure.unit}` : "")));
    });
    return h("dl", { class: "measures" }, rows);
  }

  // Text with a button that copies it. `text` may change: `update` sets it.
  function snippet(title, note) {
    const code = h("code");
    const button = h("button", { type: "button", class: "copy", "aria-label": `Copy: ${title}`, onclick: () => copy(code.textContent, button) }, "Copy");
    const root = h("div", { class: "snippet" }, h("div", { class: "bar" }, h("h3", null, title), button),
      h("pre", { tabindex: "0", role: "region", "aria-label": title }, code), note ? h("p", { class: "note" }, note) : null);
    return { root, update: (text) => { code.textContent = text; } };
  }

  async function copy(text, button) {
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch {
      done = copyByHand(text);
    }
    button.textContent = done ? "Copied" : "Select it and press Ctrl+C";
    eigenbank.announce(done ? "Copied" : "Not copied: select the text and press Ctrl+C");
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  }

  // Where a page may not use the clipboard (plain HTTP, some frames), the old way may still work.
  function copyByHand(text) {
    const area = h("textarea", { class: "hidden", readonly: true, "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    let done = false;
    try {
      done = document.execCommand("copy");
    } catch {
      done = false;
    }
    area.remove();
    return done;
  }

  // A long list, made piece by piece as one gets there; the button is for keyboards and for browsers without observers.
  // `rest` reads further items: `left()` says how many there are, `read()` gives the next of them.
  function growing(container, items, make, { size = 24, start = size, rest = { left: () => 0 } } = {}) {
    let made = 0;
    let reading = false;
    const more = h("button", { type: "button", class: "more", onclick: () => grow(size) });
    const watch = new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) grow(size); }, { rootMargin: "900px" });
    function grow(by) {
      if (made + by > items.length && rest.left()) {
        if (reading) return;
        reading = true;
        rest.read().then((further) => { items.push(...further); reading = false; grow(by); },
          () => { more.textContent = "The others could not be read"; more.hidden = false; watch.disconnect(); });
        return;
      }
      const until = Math.min(items.length, made + by);
      const piece = document.createDocumentFragment();
      for (; made < until; made += 1) piece.append(make(items[made]));
      container.append(piece);
      container.dataset.made = made;
      const left = items.length - made + rest.left();
      more.textContent = `Show more (${left.toLocaleString("en")} left)`;
      more.hidden = left === 0;
      if (more.hidden) watch.disconnect();
      else {
        watch.unobserve(more);
        watch.observe(more);
      }
    }
    grow(start);
    return more;
  }

  const sourceWords = (kind) => (Object.hasOwn(eigenbank.index().sourceKinds, kind) ? eigenbank.index().sourceKinds[kind] : kind);

  // What sliders can be made of, for a filter; only where there are both.
  function madeOf({ directions, composites }) {
    return directions && composites ? [["directions", "one direction"], ["composites", "several: composites"]] : [];
  }

  // A choice in the filter bar; left out where there is nothing to choose.
  function choice(key, title, options, state, change) {
    if (options.length < 2 && !state[key]) return null;
    const select = h("select", { id: `filter-${key}`, onchange: () => change({ [key]: select.value }) },
      options.map(([value, text]) => h("option", { value, selected: (state[key] ?? "") === value }, text)));
    if (state[key] && !options.some(([value]) => value === state[key])) {
      select.append(h("option", { value: state[key], selected: true }, state[key]));
    }
    return h("div", { class: "choice" }, h("label", { for: `filter-${key}` }, title), select);
  }

  Object.assign(eigenbank, {
    titleOf, plainName, confidence, compositeOf, linkTo, rangeOf, startOf, directionCard, spectrum, byLayer, quality, snippet, growing, choice, madeOf, sourceWords,
  });
}
