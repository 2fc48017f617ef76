// Asking the model and keeping what comes of it: streamed into a message, stopped, gone on with, stored.
import { useRef, useState } from "../../vendor/hooks.js";
import { complain } from "../../parts.js";
import { t } from "./i18n.js";
import { messageFields, replyTo } from "./reply.js";
import { requestBody } from "./request.js";
import { newMessage, pathOf } from "./tree.js";

const PAINT_EVERY_MS = 32;

/** `reply` is null or {id, text, reasoning, first, …} of the answer that streams now. */
export function useAnswering({ conversation, settings, model, announce }) {
  const [reply, setReply] = useState(null);
  const controller = useRef(null);
  const timer = useRef(0);

  const paintSoon = (state) => {
    timer.current ||= setTimeout(() => { timer.current = 0; setReply({ ...state }); }, PAINT_EVERY_MS);
  };
  const finish = (message, draft, change) => {
    clearTimeout(timer.current);
    timer.current = 0;
    const done = { ...message, ...messageFields(draft, message.data), ...change };
    const { current } = conversation.ref;
    setReply(null);
    conversation.update({ ...current, messages: current.messages.map((m) => (m.id === done.id ? done : m)) });
    return done;
  };

  /** Answer the last message of the path, or go on with the answer `into`. */
  const answer = async (into = null) => {
    const { ref, update, store } = conversation;
    const path = pathOf(ref.current);
    let body;
    try { body = requestBody(path, settings, model, Boolean(into)); } catch {
      complain(Object.assign(new Error(t("toolsShape")), { status: 400 }));
      return;
    }
    const message = into || newMessage("assistant", path[path.length - 1].id, "", { model });
    if (!into) update({ ...ref.current, messages: [...ref.current.messages, message], leaf: message.id });
    controller.current = new AbortController();
    announce(t("answering"));
    let draft = null;
    let change = {};
    try {
      for await (draft of replyTo(body, message.content, controller.current.signal)) {
        if (draft.first) paintSoon({ ...draft, id: message.id });
        else setReply({ ...draft, id: message.id });
      }
      announce(t("answered"));
    } catch (e) {
      const stopped = e.name === "AbortError";
      change = { finish_reason: stopped ? "cancelled" : "error" };
      announce(stopped ? t("stopped") : t("interrupted"));
      complain(e);
    }
    const done = finish(message, draft, change);
    await store([done], done.id);
  };

  return { reply, answer, stop: () => controller.current?.abort() };
}
