// Our own icons: a machine without an emoji font would show empty boxes.
import { html } from "./html.js";

const PATHS = {
  again: "M20 11a8 8 0 10-2 6M20 5v6h-6",
  agents: "M12 3v4M7 7h10v8H7zM9 11h1M14 11h1M5 19h14M8 15v4M16 15v4",
  chat: "M4 5h16v11H9l-5 4z",
  chats: "M3 4h13v9H8l-5 3zM8 17h8l5 3V9h-2",
  clip: "M8 12l6-6a3 3 0 014 4l-8 8a5 5 0 01-7-7l7-7",
  close: "M6 6l12 12M18 6L6 18",
  compare: "M4 5h7v14H4zM13 5h7v14h-7z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  documents: "M6 3h9l4 4v14H6zM9 11h7M9 15h7",
  draw: "M4 20l4-1 11-11-3-3L5 16zM14 7l3 3",
  edit: "M4 20l4-1 11-11-3-3L5 16z",
  fields: "M4 20V10l8-6 8 6v10zM10 20v-6h4v6",
  gear: "M10.3 3h3.4l.5 2.6 1.9 1.1 2.5-.9 1.7 3-2 1.7v2.9l2 1.7-1.7 3-2.5-.9-1.9 1.1-.5 2.7h-3.4l-.5-2.7-1.9-1.1-2.5.9"
    + "-1.7-3 2-1.7v-2.9l-2-1.7 1.7-3 2.5.9 1.9-1.1zM12 9a3 3 0 100 6 3 3 0 000-6",
  guides: "M4 5c3-1 6-1 8 1 2-2 5-2 8-1v14c-3-1-6-1-8 1-2-2-5-2-8-1zM12 6v14",
  jobs: "M5 4h14v5H5zM5 13h14v7H5z",
  left: "M14 6l-6 6 6 6",
  listen: "M12 3a3 3 0 013 3v5a3 3 0 01-6 0V6a3 3 0 013-3zM6 11a6 6 0 0012 0M12 17v4",
  look: "M2 12s4-6 10-6 10 6 10 6-4 6-10 6S2 12 2 12zM12 9a3 3 0 100 6 3 3 0 000-6",
  menu: "M4 7h16M4 12h16M4 17h16",
  models: "M12 3l9 5-9 5-9-5zM3 13l9 5 9-5",
  more: "M5.4 12a.6.6 0 101.2 0 .6.6 0 10-1.2 0M11.4 12a.6.6 0 101.2 0 .6.6 0 10-1.2 0"
    + "M17.4 12a.6.6 0 101.2 0 .6.6 0 10-1.2 0",
  pin: "M9 3h6l-1 7 4 4H6l4-4zM12 14v7",
  plus: "M12 5v14M5 12h14",
  prompts: "M5 4h14v16H5zM8 8h8M8 12h4M14 12h2M8 16h6",
  right: "M10 6l6 6-6 6",
  send: "M4 12l16-8-6 16-3-7z",
  speak: "M4 9v6h4l5 4V5L8 9zM16 9a4 4 0 010 6M18 6a8 8 0 010 12",
  stop: "M7 7h10v10H7z",
  system: "M4 5h16v11H4zM9 20h6M12 16v4",
  tune: "M4 7h10M18 7h2M4 17h2M10 17h10M14 5v4M8 15v4",
};

export const Icon = ({ name }) =>
  html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;

export const IconButton = ({ icon, label, ...rest }) =>
  html`<button type="button" class="icon-button" aria-label=${label} title=${label} ...${rest}>
    <${Icon} name=${icon} /></button>`;
