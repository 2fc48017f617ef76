// The parts of one view as links, so that each has an address and the back button leads between them.
import { html } from "./html.js";
import { link } from "../router.js";

/** `tabs`: [name, words] pairs; the first is the view itself. */
export function Tabs({ label, view, at, tabs }) {
  return html`<nav class="tabs" aria-label=${label}>${tabs.map(([name, words], i) => html`<a key=${name}
    ...${link(i ? `${view}?tab=${name}` : view)} aria-current=${name === at ? "page" : undefined}>${words}</a>`)}
      </nav>`;
}
