"use strict";
// What stays while views change: the search field, the theme, going there and back.

{
  const { h, quote, parse, link } = eigenbank;

  const main = document.getElementById("main");
  const search = document.getElementById("search");
  // Where one was on pages seen before: how far down, and how much of a long list was made.
  const seen = new Map();
  let waiting = 0;

  eigenbank.turn = 0;
  eigenbank.shown = null;
  eigenbank.fresh = true;

  function show() {
    if (!eigenbank.index()) {
      main.replaceChildren(h("h1", null, "The data is missing"), h("p", null, "data/index.js could not be read. Write the gallery again: ", h("code", null, "eigenbank gallery --out site/")));
      return;
    }
    const state = parse(location.hash);
    const before = eigenbank.fresh ? null : seen.get(location.hash);
    eigenbank.turn += 1;
    eigenbank.grown = before?.made ?? null;
    const typing = document.activeElement === search;
    if (!typing) search.value = state.direction || state.model ? "" : state.q ?? "";
    search.placeholder = state.model ? "Search in this checkpoint" : "Search: a label, a layer, a model";
    if (state.model && !state.direction && !typing) search.value = state.q ?? "";
    eigenbank.shown = location.hash;
    const turn = eigenbank.turn;
    const put = (made) => {
      if (eigenbank.turn !== turn) return;
      place(made, { before, typing });
    };
    if (state.direction || state.model) opened(state).then(put);
    else put(eigenbank.front(state));
  }

  // A view that needs a set's data.
  async function opened(state) {
    const [name, id] = split(state);
    let card;
    try {
      card = await eigenbank.cardNamed(name);
    } catch (error) {
      console.warn(error);
      return { title: "Not read", content: h("section", { class: "empty" }, h("h1", null, "Some checkpoints could not be read"), h("p", null, "A file of data/ is missing or damaged: write the gallery again.")) };
    }
    if (!card) {
      return { title: "Not here", content: h("section", { class: "empty" }, h("h1", null, "No such checkpoint"), h("p", null, "This gallery has no ", quote(name), "."), h("p", null, h("a", { href: "#" }, "See what it has"))) };
    }
    try {
      const set = await eigenbank.load(card);
      return id === null ? eigenbank.checkpoint({ ...state, model: card.name }, set) : eigenbank.direction(state, set, id);
    } catch (error) {
      console.warn(error);
      return { title: "Not read", content: h("section", { class: "empty" }, h("h1", null, "This checkpoint could not be read"), h("p", null, `data/${card.slug}.js is missing or damaged: write the gallery again.`)) };
    }
  }

  function split(state) {
    if (!state.direction) return [state.model, null];
    const at = state.direction.indexOf("#");
    return at < 0 ? [state.direction, ""] : [state.direction.slice(0, at), state.direction.slice(at + 1)];
  }

  function place({ title, content }, { before, typing }) {
    const first = !main.dataset.view;
    main.replaceChildren(content);
    main.dataset.view = eigenbank.shown;
    document.title = title ? `${title} · eigenbank gallery` : "eigenbank gallery";
    eigenbank.settled = () => before && scrollTo(0, before.y);
    if (typing) return;
    scrollTo(0, before?.y ?? 0);
    const heading = main.querySelector("h1");
    if (heading && !first) {
      heading.tabIndex = -1;
      heading.focus({ preventScroll: true });
    }
    eigenbank.fresh = false;
  }

  function remember() {
    if (eigenbank.shown !== null) seen.set(eigenbank.shown, { y: scrollY, made: Number(main.querySelector(":is(.layers, .cards, .found > .grid)")?.dataset.made) || null });
  }

  // Filters and typing change the view in place; the first change of a page is a step one can go back from.
  eigenbank.settled = () => {};
  eigenbank.change = (changes) => {
    const focused = document.activeElement?.id;
    const next = { ...parse(location.hash), ...changes };
    delete next.direction;
    delete next.scale;
    remember();
    const to = link(next);
    if (to === link(parse(location.hash))) return;
    if (eigenbank.amending) history.replaceState(null, "", to);
    else history.pushState(null, "", to);
    eigenbank.fresh = true;
    show();
    if (focused) document.getElementById(focused)?.focus();
  };

  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      eigenbank.amending = Boolean(parse(location.hash).q) && Boolean(search.value.trim());
      eigenbank.change({ q: search.value.trim() });
      eigenbank.amending = false;
    }, 90);
  });

  addEventListener("keydown", (event) => {
    const writing = event.target.matches?.("input:not([type=range]), select, textarea");
    if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
      search.select();
    }
    if (event.key === "Escape" && event.target === search && search.value) {
      search.value = "";
      search.dispatchEvent(new Event("input"));
    }
  });

  document.addEventListener("click", (event) => {
    const anchor = event.target.closest?.("a[href^='#']");
    if (!anchor || event.defaultPrevented) return;
    if (anchor.classList.contains("skip")) {
      event.preventDefault();
      main.focus();
      return;
    }
    remember();
    eigenbank.fresh = true;
  });

  addEventListener("hashchange", () => {
    if (location.hash !== eigenbank.shown) show();
  });
  addEventListener("popstate", () => {
    if (location.hash !== eigenbank.shown) show();
  });
  addEventListener("scroll", () => {
    if (eigenbank.shown === location.hash) remember();
  }, { passive: true });

  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try {
      localStorage.setItem("eigenbank-theme", root.dataset.theme);
    } catch {
      // it lasts for this visit
    }
  });

  history.scrollRestoration = "manual";
  Object.assign(eigenbank, { show });
}
