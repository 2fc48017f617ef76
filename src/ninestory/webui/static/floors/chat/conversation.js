// The conversation that is shown, kept in step with the server: every change carries the revision it was made on.
import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { complain, toast } from "../../parts.js";
import { t } from "../../i18n.js";
import { own, signedOut } from "../../api.js";
import { connected, restarts } from "../../live.js";
import { emptyConversation, tipOf, wordsOf } from "./tree.js";
import { keepWaiting, mergeMessages, storedNow, waitingFor } from "./unsaved.js";

/**
 * `onLeave` runs before another one is opened, `onStored` after the server took something; `onRefused` gets a question
 * that was not taken.
 */
export function useConversation({ id, go, model, onLeave, onStored, onRefused }) {
  const [shown, show] = useState(emptyConversation);
  const [isUnsaved, setUnsaved] = useState(false);
  const ref = useRef(shown);
  const update = (value) => { ref.current = value; show(value); };

  const opened = useRef(0); // counts: what ends after another one was opened must not touch that one
  const open = async (wanted) => {
    onLeave();
    opened.current++;
    try {
      const stored = wanted ? await own("GET", `/conversations/${encodeURIComponent(wanted)}`) : emptyConversation();
      const waiting = waitingFor(stored.id);
      setUnsaved(Boolean(waiting));
      const all = mergeMessages(stored.messages, waiting?.messages || []);
      update(waiting ? { ...stored, messages: all, leaf: waiting.leaf } : stored);
    } catch (e) {
      complain(e);
      if (e.status === 404) go("chat", { replace: true });
    }
  };
  useEffect(() => { if (id !== (ref.current.id || undefined) || !id) open(id); }, [id]);

  const create = async (leaf) => {
    const { messages } = ref.current;
    const at = opened.current;
    const title = wordsOf(messages.find((m) => m.role === "user") || { content: "" }).slice(0, 60);
    const stored = await own("POST", "/conversations", { title, model, messages, leaf });
    storedNow(null);
    if (opened.current !== at) return;
    update(stored);
    go(`chat?id=${stored.id}`, { replace: true });
  };
  const append = async (messages, leaf) => {
    const { id: at, revision } = ref.current;
    const { revision: next } = await own("POST", `/conversations/${at}/messages`, { revision, messages, leaf });
    storedNow(at);
    if (ref.current.id === at) update({ ...ref.current, revision: next });
  };

  /** "stored", "unsaved" (it waits here), or "stale": another tab was first, nothing is overwritten. */
  const store = async (messages, leaf) => {
    const { id: at } = ref.current;
    const all = mergeMessages(waitingFor(at)?.messages || [], messages);
    try {
      await (at ? append(all, leaf) : create(leaf));
      setUnsaved(false);
      onStored();
      return "stored";
    } catch (e) {
      if (e.code === "stale_revision") { tellStale(all); return "stale"; }
      keepWaiting(at, at ? all : ref.current.messages, leaf);
      setUnsaved(true);
      complain(e);
      return "unsaved";
    }
  };
  const storeWaiting = () => {
    const waiting = waitingFor(ref.current.id);
    if (waiting && connected.value && !signedOut.value) store(waiting.messages, waiting.leaf);
  };
  useEffect(storeWaiting, [connected.value, restarts.value, signedOut.value]);
  useEffect(() => {
    addEventListener("online", storeWaiting);
    return () => removeEventListener("online", storeWaiting);
  }, []);

  const tellStale = (mine) => {
    const load = async () => {
      storedNow(ref.current.id);
      await open(ref.current.id);
      const known = new Set([...ref.current.messages, ...mine].map((m) => m.id));
      const answers = mine.some((m) => m.role === "assistant") && mine.every((m) => !m.parent || known.has(m.parent));
      if (answers) { // kept as one more version beside the other tab's
        update({ ...ref.current, messages: mergeMessages(ref.current.messages, mine) });
        await store(mine, ref.current.leaf);
      } else {
        mine.filter((m) => m.role === "user").forEach((m) => onRefused(m));
      }
    };
    toast(t("stale"), { error: true, action: { label: t("reload"), run: load } });
  };

  /** Show another version of a message, down to its newest tip. */
  const choose = (message) => {
    const { id: at, revision, messages } = ref.current;
    const leaf = tipOf(messages, message);
    update({ ...ref.current, leaf });
    if (at) change({ id: at, revision }, { leaf });
  };
  /** Change the title, the pin or the leaf of a stored conversation. */
  const change = (row, changes) => own("PATCH", `/conversations/${row.id}`, { revision: row.revision, ...changes })
    .then(({ revision, title }) => {
      if (ref.current.id === row.id) update({ ...ref.current, revision, title });
      onStored();
    })
    .catch((e) => (e.code === "stale_revision" && ref.current.id === row.id ? tellStale([]) : complain(e)));

  return { shown, ref, update, store, storeWaiting, choose, change, isUnsaved };
}
