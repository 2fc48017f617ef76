// What the server could not store (network cut, disk full, signed out) waits in this browser until it can.
const key = (id) => `ninestory.unsaved.${id || "new"}`;

/** {messages, leaf} that wait for conversation `id` (null: one the server has never seen), or null. */
export function waitingFor(id) {
  try { return JSON.parse(localStorage.getItem(key(id))); } catch { return null; }
}

export function keepWaiting(id, messages, leaf) {
  const text = JSON.stringify({ messages, leaf });
  try { localStorage.setItem(key(id), text); } catch { /* full: the page still shows it */ }
}

export const storedNow = (id) => localStorage.removeItem(key(id));

/** `added` over `messages`: those with the same id are replaced. */
export function mergeMessages(messages, added) {
  const byId = new Map(messages.map((m) => [m.id, m]));
  for (const message of added) byId.set(message.id, message);
  return [...byId.values()];
}
