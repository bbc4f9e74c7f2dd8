"use strict";
// A checkpoint: its named sliders first, then all of its directions by layer, each layer with its spectra.

{
  const { h, quote, breakable, count, countSliders, link, byLayer, spectrum, directionCard, growing } = eigenbank;

  function checkpoint(state, set) {
    const { card } = set;
    const filtered = ["q", "layer", "recipe", "kind", "of", "named", "source", "min"].some((key) => state[key]);
    const chosen = eigenbank.find([set], state);
    const content = h("div", { class: "one" }, head(card), filters(set, state));
    if (filtered) {
      const text = chosen.length ? countSliders(chosen) : "No direction is like that.";
      content.append(h("p", { class: "status" }, text, " ", h("a", { class: "clear", href: link({ model: card.name }) }, "Show all")));
      eigenbank.announce(text);
    }
    const best = inTurn(eigenbank.sorted(set.sliders.filter((slider) => slider.labels.length), "best"));
    if (!filtered && best.length) content.append(named(best));
    const composites = chosen.filter((slider) => slider.parts && (filtered || !slider.labels.length));
    if (composites.length) {
      const grid = h("div", { class: "grid" });
      content.append(h("h2", { class: "section" }, "Composites"), grid, growing(grid, composites, (slider) => directionCard(slider), { size: 12 }));
    }
    const layers = [...byLayer(chosen.filter((slider) => !slider.parts))];
    const whole = byLayer(set.directions);
    const list = h("div", { class: "layers" });
    if (layers.length) {
      if (!filtered || composites.length) content.append(h("h2", { class: "section" }, "By layer"), legend());
      content.append(list, growing(list, layers, ([layer, recipes]) => layerSection(layer, recipes, whole.get(layer), state), { size: 2, start: eigenbank.grown ?? 2 }));
    }
    marking(content);
    return { title: card.name, content };
  }

  // The best of every name first, then the second best, and so on.
  function inTurn(directions) {
    const seen = new Map();
    const turns = new Map();
    for (const direction of directions) {
      const name = eigenbank.titleOf(direction).toLowerCase();
      turns.set(direction, seen.get(name) ?? 0);
      seen.set(name, turns.get(direction) + 1);
    }
    return [...directions].sort((a, b) => turns.get(a) - turns.get(b));
  }

  function head(card) {
    const facts = [
      ["Directions", card.directions.toLocaleString("en"), card.composites ? `, and ${count(card.composites, "composite")}` : null],
      ["Named", card.named.toLocaleString("en")],
      ["With pictures", card.pictures.toLocaleString("en")],
      ["Denoiser", breakable(card.denoiser)],
      ["Licence of the checkpoint", card.licence ? quote(card.licence) : "unknown"],
      ["Licence of the set", quote(card.setLicence)],
      ["Made by", quote(card.builder), " on ", h("time", null, card.created)],
      ["Revision", card.revision ? breakable(card.revision) : "none known"],
      ["On the Hub", hubLink(card) ?? "not published"],
    ];
    return h("header", { class: "page" }, h("p", { class: "crumbs" }, h("a", { href: "#" }, "All checkpoints")),
      h("h1", null, breakable(card.name)),
      card.newest ? null : h("p", { class: "warn" }, "An older set of this model: by its id alone, the catalog means a newer one."),
      h("dl", { class: "facts" }, facts.map(([title, ...value]) => h("div", null, h("dt", null, title), h("dd", null, value)))));
  }

  // The set's repository at the commit it was published in.
  function hubLink(card) {
    if (!card.repo || !/^[\w.-]+(\/[\w.-]+)?$/.test(card.repo) || !/^[0-9a-f]{40}$/.test(card.commit ?? "")) return null;
    const url = `https://huggingface.co/${card.repo}/tree/${card.commit}`;
    return h("a", { href: url, rel: "noopener noreferrer external" }, `${card.repo} at ${card.commit.slice(0, 8)}`);
  }

  function filters(set, state) {
    const any = (text, options) => (options.length > 1 ? [["", text], ...options] : []);
    const change = (changes) => eigenbank.change(changes);
    const names = set.layers.filter((layer) => set.directions.some((direction) => direction.layer === layer)).map(({ name }) => [name, name]);
    const kinds = [...new Set(set.layers.map((layer) => layer.kind))].sort().map((kind) => [kind, kind]);
    const sources = set.card.sources.map((kind) => [kind, eigenbank.sourceWords(kind)]);
    const choices = [
      eigenbank.choice("layer", "Layer", any("all", names), state, change),
      eigenbank.choice("kind", "Kind of layer", any("all", kinds), state, change),
      eigenbank.choice("of", "Made of", any("all", eigenbank.madeOf(set.card)), state, change),
      eigenbank.choice("recipe", "Recipe", any("all", set.recipes.map(({ slug }) => [slug, slug])), state, change),
      eigenbank.choice("source", "Named by", any("anyone", sources), state, change),
      eigenbank.choice("named", "Name", set.card.named ? [["", "with and without"], ["yes", "only named ones"]] : [], state, change),
    ].filter(Boolean);
    return choices.length ? h("section", { class: "filters", "aria-label": "Filters" }, choices) : null;
  }

  function named(best) {
    const section = h("section", { "aria-labelledby": "named" }, h("h2", { class: "section", id: "named" }, "Named sliders"));
    const grid = h("div", { class: "grid" });
    if (best.some((direction) => direction.picture && direction.quality?.range)) section.append(h("p", { class: "legend" }, h("span", { class: "key range" }, "the range recommended for a slider")));
    section.append(grid, growing(grid, best, (direction) => directionCard(direction), { size: 12, start: 9 }));
    return section;
  }

  function legend() {
    return h("p", { class: "legend" }, "Each bar is an eigenvalue, and leads to its direction: ", h("span", { class: "key named" }, "named"), " ",
      h("span", { class: "key pictured" }, "with a picture"), " ", h("span", { class: "key" }, "the others"));
  }

  function layerSection(layer, recipes, whole, state) {
    const spectra = [...recipes.keys()].map((recipe) => {
      const name = `${layer.name}, ${recipe.slug}`;
      return h("div", { class: "basis" }, h("h4", null, breakable(recipe.slug)),
        h("p", { class: "soft" }, `${recipe.where}; ${recipe.when}`), spectrum(whole.get(recipe), { name }));
    });
    const members = [...recipes.values()].flat().filter((direction) => direction.picture || state.q);
    const section = h("section", { class: "layer" },
      h("h3", null, breakable(layer.name)),
      h("p", { class: "soft" }, `${layer.kind} self-attention, ${layer.width} wide, ${count(layer.heads, "head")}`),
      h("div", { class: "bases" }, spectra));
    if (members.length) {
      const grid = h("div", { class: "grid small" });
      section.append(grid, growing(grid, members, (direction) => directionCard(direction), { size: 12, start: 12 }));
    }
    return section;
  }

  // Pointing at a direction marks its bar, and the other way round.
  function marking(content) {
    const mark = (event) => {
      const at = event.target.closest?.("[data-id]")?.dataset.id;
      for (const marked of content.querySelectorAll(".marked")) marked.classList.remove("marked");
      if (at && event.type !== "pointerout") {
        for (const element of content.querySelectorAll(`[data-id="${CSS.escape(at)}"]`)) element.classList.add("marked");
      }
    };
    for (const kind of ["pointerover", "pointerout", "focusin"]) content.addEventListener(kind, mark);
  }

  Object.assign(eigenbank, { checkpoint, hubLink });
}
