// A conversation is messages with a parent, and a leaf; the path that is shown is walked from the leaf to the root.

// `crypto.randomUUID` exists only over HTTPS and on this machine.
function random() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
}

export const emptyConversation = () =>
  ({ id: null, revision: 0, title: "", model: null, messages: [], leaf: null, settings: {} });

export const newMessage = (role, parent, content, more = {}) => ({
  id: random(), parent, role, content, reasoning: "", model: null, finish_reason: null, usage: null, data: {},
  created_at: Date.now() / 1000, ...more,
});

export function pathOf({ messages, leaf }) {
  const byId = new Map(messages.map((m) => [m.id, m]));
  const path = [];
  for (let m = byId.get(leaf); m; m = byId.get(m.parent)) path.push(m);
  return path.reverse();
}

/** For every message id the ids of its versions (itself and its siblings of the same role), oldest first. */
export function versionsOf(messages) {
  const groups = new Map();
  for (const { parent, role, id } of messages) {
    const key = `${parent} ${role}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(id);
  }
  return new Map([...groups.values()].flatMap((ids) => ids.map((id) => [id, ids])));
}

/** The newest message that can be reached from `id`. */
export function tipOf(messages, id) {
  const newestChild = new Map(messages.map((m) => [m.parent, m.id]));
  while (newestChild.has(id)) id = newestChild.get(id);
  return id;
}

/** What was typed, without the files that came with it. */
export const wordsOf = ({ content }) => (typeof content === "string" ? content : content[0]?.text || "");

/** The files that came with a message: {name, text}. */
export const filesOf = ({ content }) => (typeof content === "string" ? [] : content.slice(1));

/** All of a message as one text, its files in fences. */
export const textOf = (message) => [wordsOf(message), ...filesOf(message).map(fenced)].filter(Boolean).join("\n\n");

/** Words and files as a message's content. */
export const contentOf = (words, files) =>
  (files.length ? [{ type: "text", text: words }, ...files.map((f) => ({ type: "text", ...f }))] : words);

function fenced({ name, text }) {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length));
  const fence = "`".repeat(longest + 1); // longer than any in the file, so that the file cannot end it
  return `${name}:\n${fence}\n${text}\n${fence}`;
}
