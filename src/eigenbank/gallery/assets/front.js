"use strict";
// The front page: the checkpoints as cards; or, as soon as something is asked for, the directions that answer.

{
  const { h, quote, breakable, count, countSliders, link, strip, scrubber, picture } = eigenbank;

  const ASKING = ["q", "kind", "recipe", "source", "min", "named", "family", "of"];
  const SORTS = { match: "best match", confidence: "confidence", strength: "strength", share: "share of the spectrum", eigenvalue: "eigenvalue" };
  const CARD_SORTS = { named: "most named", directions: "most directions", newest: "newest", name: "name" };

  function front(state) {
    const index = eigenbank.index();
    if (!index.total.sets) return { title: null, content: empty() };
    const asking = ASKING.some((key) => state[key]);
    const results = h("div", { class: "results" });
    const content = h("div", { class: "front" }, asking ? h("h1", { class: "hidden" }, "Search") : hero(index), filters(index, state, asking), results);
    if (asking) search(index, state, results);
    else showCards(index, state, results);
    return { title: state.q ? `“${state.q}”` : null, content };
  }

  function empty() {
    return h("section", { class: "empty" }, h("h1", null, "Nothing here yet"),
      h("p", null, "The catalog this gallery was made from holds no direction sets. Build one, draw its pictures, and write the gallery again:"),
      h("pre", { tabindex: "0", role: "region", "aria-label": "Commands" }, h("code", null, "eigenbank build MODEL\neigenbank label MODEL\neigenbank preview MODEL\neigenbank gallery --out site/")));
  }

  // The best slider of the checkpoint with most names, to be moved at once.
  function hero(index) {
    const { sets, directions, named } = index.total;
    const words = h("div", { class: "say" },
      h("h1", null, "Sliders found in the weights"),
      h("p", { class: "lead" }, `${count(directions, "editing direction")} of ${count(sets, "diffusion checkpoint")}, computed from the weights alone. `,
        named ? `${count(named, "slider")} ${named === 1 ? "has" : "have"} earned a name by what ${named === 1 ? "it was" : "they were"} seen to do.` : "None has a name yet: look, and judge for yourself."));
    if (!index.hero) return h("section", { class: "hero" }, words);
    const { pick, ...card } = index.hero;
    const name = pick.label ?? pick.id;
    const scrub = scrubber(picture(card.slug, pick.number, pick.preview, pick.polarity), { name, start: 1 });
    const where = link({ direction: `${card.name}#${pick.id}` });
    words.append(h("p", { class: "try" }, "Move the slider: ", h("a", { href: where }, pick.label ? quote(pick.label) : breakable(pick.id)), h("span", { class: "soft" }, ", of ", breakable(card.name), ".")));
    return h("section", { class: "hero" }, words, scrub.root);
  }

  function filters(index, state, asking) {
    const values = (key) => index.choices[key].map((value) => [value, value]);
    const any = (text, options) => (options.length > 1 ? [["", text], ...options] : []);
    const change = (changes) => eigenbank.change(changes);
    const sorts = asking ? SORTS : CARD_SORTS;
    const choices = [
      eigenbank.choice("family", "Family", any("all", values("family")), state, change),
      eigenbank.choice("kind", "Kind of layer", any("all", values("kind")), state, change),
      eigenbank.choice("of", "Made of", any("all", eigenbank.madeOf(index.total)), state, change),
      eigenbank.choice("recipe", "Recipe", any("all", values("recipe")), state, change),
      eigenbank.choice("source", "Named by", any("anyone", values("source").map(([kind]) => [kind, eigenbank.sourceWords(kind)])), state, change),
      eigenbank.choice("named", "Name", index.total.named ? [["", "with and without"], ["yes", "only named ones"]] : [], state, change),
      eigenbank.choice("min", "Confidence", index.confidence ? [["", "any"], ["0.5", "50 % and more"], ["0.8", "80 % and more"], ["0.95", "95 % and more"]] : [], state, change),
      eigenbank.choice("sort", "Sort by", asking || index.total.sets > 1 ? Object.entries(sorts).map(([value, text], i) => [i ? value : "", text]) : [], state, change),
    ].filter(Boolean);
    if (!choices.length) return null;
    const clear = asking ? h("a", { class: "clear", href: "#" }, "Clear all") : null;
    return h("section", { class: "filters", "aria-label": "Filters" }, choices, clear);
  }

  // The cards, in the order of the files they are in; in another order all of them have to be read first.
  async function showCards(index, state, results) {
    const list = h("div", { class: "cards" });
    const start = eigenbank.grown ?? 12;
    const { turn } = eigenbank;
    results.append(h("h2", { class: "section" }, "Checkpoints"), list);
    if (!state.sort || state.sort === "named") {
      const rest = { left: eigenbank.unread, read: () => further(index) };
      results.append(eigenbank.growing(list, [...index.sets], checkpointCard, { size: 12, start, rest }));
      return;
    }
    const failed = await readAll(results);
    if (eigenbank.turn !== turn) return;
    if (failed) results.append(failed);
    results.append(eigenbank.growing(list, eigenbank.sortedCards(index.sets, state.sort), checkpointCard, { size: 12, start }));
    eigenbank.settled();
  }

  async function further(index) {
    const before = index.sets.length;
    await eigenbank.moreCards();
    return index.sets.slice(before);
  }

  // Read the cards that are not read yet, saying so. Gives a word for what could not be read.
  async function readAll(results) {
    if (!eigenbank.unread()) return null;
    const status = h("p", { class: "status" }, "Looking …");
    results.append(status);
    try {
      await eigenbank.allCards();
      return null;
    } catch (error) {
      console.warn(error);
      return h("p", { class: "warn" }, `${count(eigenbank.unread(), "checkpoint")} could not be read: a file of data/ is missing or damaged. Write the gallery again.`);
    } finally {
      status.remove();
    }
  }

  function checkpointCard(card) {
    const facts = [count(card.directions, "direction"), card.composites ? count(card.composites, "composite") : null, card.named ? `${card.named.toLocaleString("en")} named` : "none named yet", count(card.layers, "layer")];
    const strips = card.picks.map((pick) => {
      const name = pick.label ?? pick.id;
      const film = strip(picture(card.slug, pick.number, pick.preview, pick.polarity), `${name}, at every scale`);
      return h("li", null, h("a", { href: link({ direction: `${card.name}#${pick.id}` }) },
        h("span", { class: "of" }, pick.label ? quote(pick.label) : h("span", { class: "soft" }, "unnamed")), film));
    });
    return h("article", { class: "checkpoint" },
      h("h3", null, h("a", { href: link({ model: card.name }) }, breakable(card.name))),
      h("p", { class: "facts" }, facts.filter(Boolean).join(" · ")),
      strips.length ? h("ul", { class: "strips" }, strips) : h("p", { class: "soft nothing" }, "No pictures drawn yet."),
      h("p", { class: "where" }, breakable(card.denoiser), " · ", card.licence ? ["licence ", quote(card.licence)] : "licence unknown"));
  }

  async function search(index, state, results) {
    const { turn } = eigenbank;
    const failed = await readAll(results);
    if (eigenbank.turn !== turn) return;
    if (failed) results.append(failed);
    const cards = index.sets.filter((card) => eigenbank.mayHold(card, state));
    const status = h("p", { class: "status" });
    const chips = h("div", { class: "chips" });
    const found = h("div", { class: "found" });
    results.append(status, chips, found);
    const matching = state.q ? cards.filter((card) => eigenbank.isNamed(card, state.q)) : [];
    chips.append(...matching.slice(0, 12).map((card) => h("a", { href: link({ model: card.name }) }, breakable(card.name), h("span", { class: "soft" }, ` ${card.directions.toLocaleString("en")}`))));
    const sets = [];
    const lost = [];
    const began = performance.now();
    let drawn = false;
    const draw = (done) => {
      if (eigenbank.turn !== turn) return;
      const hits = eigenbank.sorted(eigenbank.find(sets, state), state.sort);
      found.replaceChildren();
      const words = hits.length ? countSliders(hits) : done ? "No direction is like that." : "Looking …";
      status.textContent = done ? words : `${words} so far; ${sets.length} of ${cards.length} checkpoints read`;
      if (lost.length) status.append(` Not read: ${lost.join(", ")}.`);
      if (done) eigenbank.announce(words);
      if (!hits.length && done) found.append(hint(index, state));
      const list = h("div", { class: "grid" });
      found.append(list, eigenbank.growing(list, hits, (direction) => eigenbank.directionCard(direction, { model: index.total.sets > 1 }), { start: eigenbank.grown ?? 24 }));
      drawn = true;
    };
    const queue = [...cards];
    const worker = async () => {
      for (let card = queue.shift(); card; card = queue.shift()) {
        try {
          sets.push(await eigenbank.load(card));
        } catch {
          lost.push(card.name);
        }
        if (eigenbank.turn !== turn) return;
        // What was found so far is shown once; drawing it again and again would keep the rest from being read.
        if (queue.length && !drawn && performance.now() - began > 400) draw(false);
      }
    };
    await Promise.all([worker(), worker(), worker(), worker()]);
    const places = new Map(cards.map((card, place) => [card, place]));
    sets.sort((a, b) => places.get(a.card) - places.get(b.card));
    draw(true);
    eigenbank.settled();
  }

  // What there is, for those who asked for what there is not.
  function hint(index, state) {
    if (!index.hints.length) return h("p", { class: "soft" }, "No direction here has a name yet. Layers and model ids can be searched, too.");
    return h("div", { class: "hint" }, h("p", { class: "soft" }, "Labels that are here:"),
      h("p", { class: "chips" }, index.hints.map(([text, number]) => h("a", { href: link({ q: text }) }, quote(text), h("span", { class: "soft" }, ` ${number}`)))));
  }

  Object.assign(eigenbank, { front });
}
