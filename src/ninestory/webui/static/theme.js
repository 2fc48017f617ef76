// Before the first paint: language and theme from what was chosen, else from the system.
(() => {
  const chosen = localStorage.getItem("ninestory.theme") || "auto";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  window.applyTheme = (theme) => {
    document.documentElement.dataset.theme = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
  };
  window.applyTheme(chosen);
  dark.addEventListener("change", () => window.applyTheme(localStorage.getItem("ninestory.theme") || "auto"));
  const language = localStorage.getItem("ninestory.language")
    || (navigator.languages || []).map((l) => l.slice(0, 2)).find((l) => l === "zh" || l === "en") || "en";
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
})();
