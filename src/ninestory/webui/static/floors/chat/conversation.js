// The conversation that is shown: opened by the address, changed by branch, title and pin.
import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { complain } from "../../parts.js";
import { own } from "../../api.js";
import { useStoring } from "./storing.js";
import { emptyConversation, tipOf } from "./tree.js";
import { mergeMessages, waitingFor } from "./unsaved.js";

/**
 * `onLeave` runs before another one is opened, `onStored` after the server took something; `onRefused` gets a question
 * that was not taken.
 */
export function useConversation({ id, go, model, onLeave, onStored, onRefused }) {
  const [shown, show] = useState(emptyConversation);
  const ref = useRef(shown);
  const opened = useRef(0);
  const update = (value) => { ref.current = value; show(value); };

  const open = async (wanted) => {
    onLeave();
    opened.current++;
    try {
      const stored = wanted ? await own("GET", `/conversations/${encodeURIComponent(wanted)}`) : emptyConversation();
      const waiting = waitingFor(stored.id);
      storing.setUnsaved(Boolean(waiting));
      const all = mergeMessages(stored.messages, waiting?.messages || []);
      update(waiting ? { ...stored, messages: all, leaf: waiting.leaf } : stored);
    } catch (e) {
      complain(e);
      if (e.status === 404) go("chat", { replace: true });
    }
  };
  const storing = useStoring({ ref, opened, update, open, go, model, onStored, onRefused });
  useEffect(() => { if (!id || id !== ref.current.id) open(id); }, [id]);

  /** Change the title, the pin or the leaf of a stored conversation. */
  const change = (row, changes) => storing.inLine(async () => {
    const isShown = ref.current.id === row.id;
    try {
      const body = { revision: isShown ? Math.max(row.revision, ref.current.revision) : row.revision, ...changes };
      const { revision, title } = await own("PATCH", `/conversations/${row.id}`, body);
      if (ref.current.id === row.id) update({ ...ref.current, revision, title });
      onStored();
    } catch (e) {
      if (e.code === "stale_revision" && isShown) storing.tellStale([]);
      else complain(e);
    }
  });
  /** Show another version of a message, down to its newest tip. */
  const choose = (message) => {
    const { id: at, revision, messages } = ref.current;
    const leaf = tipOf(messages, message);
    update({ ...ref.current, leaf });
    if (at) change({ id: at, revision }, { leaf });
  };

  return { shown, ref, update, choose, change, ...storing };
}
