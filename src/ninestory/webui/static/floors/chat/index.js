// Floor 1: talking with a model. The view puts its pieces together; each piece is a module of `chat/`.
import { useCallback, useEffect, useMemo, useRef, useState } from "../../vendor/hooks.js";
import { html, Drop, IconButton, Menu, copyText, toast } from "../../parts.js";
import { t } from "./i18n.js";
import { needsKey } from "../../api.js";
import { useAnswering } from "./answering.js";
import { Composer, attach, attached, draft } from "./composer.js";
import { ContextDialog, ContextMeter, contextOf } from "./context.js";
import { useConversation } from "./conversation.js";
import { ConversationList, useList } from "./list.js";
import { Log, Welcome } from "./log.js";
import { ModelPicker, contextTokens, useModels } from "./picker.js";
import { asCurl, asPython, isRemote, requestBody } from "./request.js";
import { SettingsPanel, useSettings } from "./settings.js";
import { contentOf, filesOf, newMessage, pathOf, textOf, versionsOf } from "./tree.js";

export default function Chat({ query, go }) {
  const [settings, setSettings] = useSettings();
  const { models, model, row } = useModels(settings.model);
  const [open, setOpen] = useState({ panel: false, list: false, context: false });
  const toggle = (name) => setOpen({ ...open, [name]: !open[name] });
  const [announcement, announce] = useState("");
  const list = useList();
  const leave = useRef(() => {}); // an answer to a conversation that one leaves is stopped; what came is kept
  const conversation = useConversation({
    id: query.id, go, model,
    onLeave: () => leave.current(),
    onStored: () => list.refresh(),
    onRefused: (m) => { draft.value ||= textOf(m); },
  });
  const { shown, ref, update, store } = conversation;
  const { reply, answer, stop } = useAnswering({ conversation, settings, model, announce });
  leave.current = stop;
  useEffect(() => () => leave.current(), []);
  const [sending, setSending] = useState(false);
  const busy = sending || Boolean(reply);

  const add = async (messages) => {
    const leaf = messages[messages.length - 1].id;
    setSending(true);
    update({ ...ref.current, messages: [...ref.current.messages, ...messages], leaf });
    // The question is kept before it is answered: a tab closed in mid-answer loses no words of the user's.
    const isStale = await store(messages, leaf) === "stale";
    if (!isStale && ref.current.leaf === leaf) await answer(); // else it was left meanwhile
    setSending(false);
  };
  const send = (text, files = [], parent = ref.current.leaf) => {
    if (!busy && model) add([newMessage("user", parent, contentOf(text, files))]);
  };
  const actions = useRef();
  actions.current = {
    edit: (message, text) => send(text, filesOf(message), message.parent),
    choose: conversation.choose,
    goOn: (message) => answer(message),
    regenerate(message) {
      update({ ...ref.current, leaf: message.role === "user" ? message.id : message.parent });
      answer();
    },
    results(message, results) {
      let parent = message.id;
      add(results.map(({ id, text }) => {
        const result = newMessage("tool", parent, text, { data: { tool_call_id: id } });
        parent = result.id;
        return result;
      }));
    },
  };
  const act = useCallback((name, ...args) => actions.current[name](...args), []);

  const path = useMemo(() => pathOf(shown), [shown]);
  const versions = useMemo(() => versionsOf(shown.messages), [shown.messages]);
  const said = (m) => (m.id === reply?.id ? { ...m, content: reply.text, reasoning: reply.reasoning } : m);
  return html`<div class="chat">
    <${ConversationList} list=${list} isOpen=${open.list} at=${shown.id} onChange=${conversation.change}
      onOpen=${(id) => { go(id ? `chat?id=${id}` : "chat"); setOpen({ ...open, list: false }); }}
      onRemoved=${(removed) => { if (ref.current.id === removed.id) go("chat"); }} />
    <${Drop} class="talk" onFiles=${attach}>
      <${Bar} models=${models} model=${model} row=${row} path=${path} settings=${settings} setSettings=${setSettings}
        open=${open} toggle=${toggle} go=${go} />
      <${Log} path=${path.map(said)} versions=${versions} reply=${reply} busy=${busy} leaf=${shown.leaf}
        canAsk=${!busy && Boolean(model)} canGoOn=${!isRemote(model)} act=${act}>
        <${Welcome} model=${model} onTry=${(text) => send(text)} /><//>
      ${conversation.isUnsaved && html`<p class="unsaved" role="status">${t("unsaved")}
        <button type="button" onClick=${conversation.storeWaiting}>${t("saveNow")}</button></p>`}
      <${Composer} busy=${busy} ready=${Boolean(model)} onSend=${send} onStop=${stop} />
    <//>
    ${open.panel && html`<${SettingsPanel} settings=${settings} setSettings=${setSettings}
      onClose=${() => toggle("panel")} />`}
    <div class="hidden" role="status">${announcement}</div></div>`;
}

function Bar({ models, model, row, path, settings, setSettings, open, toggle, go }) {
  const total = contextTokens(model, row);
  const context = total > 0 && path.length > 0 && contextOf(path, {
    system: settings.system, draft: [draft.value, ...attached.value.map((f) => f.text)].join("\n"), total,
    reserved: Number(settings.max_tokens) || 1,
  });
  const copy = (how) => copyText(how(requestBody(path, settings, model), needsKey.value))
    .then(() => toast(t("copied")));
  return html`<div class="bar">
    <${IconButton} icon="chats" label=${t("conversations")} class="icon-button narrow-only" aria-expanded=${open.list}
      onClick=${() => toggle("list")} />
    <${ModelPicker} models=${models} model=${model} row=${row}
      onChange=${(value) => setSettings({ ...settings, model: value })} />
    <span class="grow"></span>
    ${context && html`<${ContextMeter} context=${context} total=${total} onClick=${() => toggle("context")} />`}
    <${IconButton} icon="compare" label=${t("compare")} class="icon-button wide-only" onClick=${() => go("compare")} />
    <${Menu} label=${t("copyRequest")} icon="copy" items=${[
      [t("copyCurl"), () => copy(asCurl)], [t("copyPython"), () => copy(asPython)]]} />
    <${IconButton} icon="gear" label=${t("settings")} aria-expanded=${open.panel} onClick=${() => toggle("panel")} />
    ${open.context && context && html`<${ContextDialog} context=${context} total=${total}
      truncate=${settings.truncate !== false} onClose=${() => toggle("context")} />`}</div>`;
}
