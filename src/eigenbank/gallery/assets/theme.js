"use strict";
// Before the first paint: the theme chosen last time, if any. Pages from a disk may have no storage.
try {
  const chosen = localStorage.getItem("eigenbank-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // the system's theme it is
}
