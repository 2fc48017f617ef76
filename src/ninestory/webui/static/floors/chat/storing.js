// Keeping the conversation on the server: every write carries the revision it was made on, and what the server
// cannot take now waits in this browser.
import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { complain, toast } from "../../parts.js";
import { t } from "./i18n.js";
import { own, signedOut } from "../../api.js";
import { connected, restarts } from "../../live.js";
import { wordsOf } from "./tree.js";
import { keepWaiting, mergeMessages, storedNow, waitingFor } from "./unsaved.js";

const TITLE_CHARACTERS = 60;
const RETRY_MS = 4000;

/** `opened` counts: what ends after another conversation was opened must not touch that one. */
export function useStoring({ ref, opened, update, open, go, model, onStored, onRefused }) {
  const [isUnsaved, setUnsaved] = useState(false);

  const create = async ({ messages }, leaf) => {
    const at = opened.current;
    const title = wordsOf(messages.find((m) => m.role === "user") || { content: "" }).slice(0, TITLE_CHARACTERS);
    const stored = await own("POST", "/conversations", { title, model, messages, leaf });
    storedNow(null);
    if (opened.current !== at) return;
    update(stored);
    go(`chat?id=${stored.id}`, { replace: true });
  };
  const append = async ({ id, revision }, messages, leaf) => {
    const { revision: next } = await own("POST", `/conversations/${id}/messages`, { revision, messages, leaf });
    storedNow(id);
    if (ref.current.id === id) update({ ...ref.current, revision: next });
  };

  const line = useRef(Promise.resolve());
  /** One write after another: each stands on the revision that the one before it made. */
  const inLine = (work) => (line.current = line.current.then(work, work));

  /** "stored", "unsaved" (it waits here), or "stale": another tab was first, nothing is overwritten. */
  const store = (messages, leaf) => {
    const { current } = ref;
    const at = opened.current;
    return inLine(() => write(opened.current === at ? ref.current : current, messages, leaf));
  };
  const write = async (conversation, messages, leaf, { again = false } = {}) => {
    const { id } = conversation;
    const all = mergeMessages(waitingFor(id)?.messages || [], messages);
    try {
      await (id ? append(conversation, all, leaf) : create(conversation, leaf));
      setUnsaved(false);
      onStored();
      return "stored";
    } catch (e) {
      if (e.code === "stale_revision") { tellStale(all); return "stale"; }
      keepWaiting(id, id ? all : conversation.messages, leaf);
      setUnsaved(true);
      if (!again) complain(e); // once, not every few seconds
      return "unsaved";
    }
  };
  const isStale = useRef(false); // asked once: only a click goes on
  const storeWaiting = ({ again } = {}) => inLine(async () => {
    const waiting = waitingFor(ref.current.id);
    if (!waiting || !connected.value || signedOut.value) return;
    await write(ref.current, waiting.messages, waiting.leaf, { again });
  });
  useEffect(() => { storeWaiting(); }, [connected.value, restarts.value, signedOut.value]);
  const latest = useRef();
  latest.current = storeWaiting;
  useEffect(() => { // a cut that ended before it was noticed says nothing when it ends
    if (!isUnsaved) return undefined;
    const timer = setInterval(() => isStale.current || latest.current({ again: true }), RETRY_MS);
    return () => clearInterval(timer);
  }, [isUnsaved]);
  useEffect(() => {
    const online = () => latest.current();
    addEventListener("online", online);
    return () => removeEventListener("online", online);
  }, []);

  /** Another tab was first: load its version on a click, with an answer of ours as one more version beside it. */
  const tellStale = (mine) => {
    isStale.current = true;
    const load = async () => {
      isStale.current = false;
      storedNow(ref.current.id);
      await open(ref.current.id);
      const known = new Set([...ref.current.messages, ...mine].map((m) => m.id));
      const isAnswer = mine.some((m) => m.role === "assistant") && mine.every((m) => !m.parent || known.has(m.parent));
      if (!isAnswer) { mine.filter((m) => m.role === "user").forEach(onRefused); return; }
      update({ ...ref.current, messages: mergeMessages(ref.current.messages, mine) });
      await store(mine, ref.current.leaf);
    };
    toast(t("stale"), { error: true, action: { label: t("reload"), run: load } });
  };

  return { inLine, store, storeWaiting, tellStale, isUnsaved, setUnsaved };
}
