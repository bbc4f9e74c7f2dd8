"use strict";
// The address bar holds the view: `#q=hair&recipe=qkv`, `#model=org/name&layer=…`, `#direction=org/name%23layer/recipe/0`.

{
  const KEYS = ["direction", "model", "scale", "q", "layer", "recipe", "family", "kind", "of", "source", "min", "named", "sort"];

  function parse(hash) {
    const state = {};
    for (const part of hash.replace(/^#/, "").split("&")) {
      const at = part.indexOf("=");
      const key = part.slice(0, Math.max(at, 0));
      if (!KEYS.includes(key)) continue;
      let value = part.slice(at + 1).replaceAll("+", " ");
      try {
        value = decodeURIComponent(value);
      } catch {
        // a link cut off in the middle: what is left is taken as it stands
      }
      if (value) state[key] = value.slice(0, 1000);
    }
    return state;
  }

  function link(state) {
    const parts = KEYS.filter((key) => state[key]).map((key) => {
      const value = encodeURIComponent(state[key]).replace(/%(2F|3A|2C|40)/g, (_, code) => String.fromCharCode(parseInt(code, 16)));
      return `${key}=${value.replaceAll("%20", "+")}`;
    });
    return `#${parts.join("&")}`;
  }

  // Change the address without a step in the history: for what changes while one types or drags.
  function amend(changes) {
    const next = link({ ...parse(location.hash), ...changes });
    if (next === link(parse(location.hash))) return false;
    history.replaceState(null, "", next);
    eigenbank.shown = location.hash;
    return true;
  }

  Object.assign(eigenbank, { parse, link, amend });
}
