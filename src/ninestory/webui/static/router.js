// Where the page is: /ui/VIEW?query, with deep links and a back button that works.
import { signal } from "./vendor/signals.js";

const here = () => ({
  view: location.pathname.replace(/^\/ui\/?/, "").split("/")[0] || "chat",
  query: Object.fromEntries(new URLSearchParams(location.search)),
});
export const route = signal(here());

export function go(path, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"]({}, "", `/ui/${path}`);
  route.value = here();
}
addEventListener("popstate", () => { route.value = here(); });

/** The attributes of a link to a view; a click with Ctrl opens a tab, as everywhere. */
export const link = (path, onGone = () => {}) => ({
  href: `/ui/${path}`,
  onClick(e) {
    if (e.metaKey || e.ctrlKey || e.shiftKey) return;
    e.preventDefault();
    go(path);
    onGone();
  },
});
