// The user's own prompts: presets of the floor `prompts`, whose settings hold the text and the values to try.
import { own } from "../../api.js";

const fromPreset = ({ id, revision, name, system, settings }) =>
  ({ id, revision, name, system, text: settings.text || "", values: settings.values || {} });
const toPreset = ({ name, system, text, values }) => ({ name, system, settings: { text, values } });

export const emptyPrompt = () => ({ id: null, revision: 0, name: "", system: "", text: "", values: {} });

export const listPrompts = async () => (await own("GET", "/presets?floor=prompts")).data.map(fromPreset);

/** Store a prompt, new or changed; the server refuses one that another tab has changed meanwhile. */
export async function storePrompt(prompt) {
  const body = toPreset(prompt);
  const kept = prompt.id
    ? await own("PATCH", `/presets/${prompt.id}`, { revision: prompt.revision, ...body })
    : await own("POST", "/presets", { floor: "prompts", ...body });
  return fromPreset(kept);
}

export const deletePrompt = ({ id }) => own("DELETE", `/presets/${id}`);
