// A new run: model, data and method, with a look at what would be learned before anything is trained.
import { useEffect, useState } from "../../vendor/hooks.js";
import { html, Drop, Field, FilePicker, Progress, complain } from "../../parts.js";
import { t, translated } from "./i18n.js";
import { call, own, upload } from "../../api.js";
import { jobs as changed } from "../../live.js";
import { Inspection } from "./inspection.js";

const DATA_FILES = ".json,.jsonl,.csv,.tsv,.parquet,.txt";
const RATES = { sft: 0.0004, dpo: 0.00005 }; // preferences are learned from a model that can answer already
const FIRST = {
  objective: "sft", method: "lora", steps: 60, batch: 8, rate: RATES.sft, rank: 8, tokens: 512, beta: 0.1,
};

/** The body of `POST /v1/fine_tuning/jobs` for the form. Unusable rows are left out once they have been shown. */
function requestOf(model, file, form, spec, seen = false) {
  const number = (name) => Number(form[name]) || FIRST[name];
  const method = spec.low_rank ? { name: form.method, rank: number("rank") } : { name: form.method };
  const train = { max_steps: number("steps"), batch_size: number("batch"), learning_rate: number("rate") };
  const data = { max_length: number("tokens"), on_invalid_row: seen ? "skip" : "refuse" };
  const asked = form.objective === "dpo" ? { type: "dpo", dpo: { hyperparameters: { beta: number("beta") } } }
    : { type: "supervised" };
  return { model, training_file: file.id, method: asked, ninestory: { method, train, data } };
}

export function Start({ go }) {
  const [models, setModels] = useState([]);
  const [methods, setMethods] = useState([{ name: FIRST.method, low_rank: true }]);
  const [model, setModel] = useState("");
  const [file, setFile] = useState(null);
  const [form, setForm] = useState(FIRST);
  const [looked, setLooked] = useState(null); // the job that looks at the data
  useEffect(() => {
    own("GET", "/models").then((r) => {
      const chat = r.data.filter((m) => m.task === "chat" && !m.model.startsWith("ft:"));
      setModels(chat);
      setModel((before) => before || chat[0]?.model || "");
    }).catch(complain);
    own("GET", "/tuning/methods").then((r) => setMethods(r.data)).catch(complain);
  }, []);
  const take = (files) => files[0] && upload(files[0], "fine-tune")
    .then((stored) => { setFile(stored); setLooked(null); }).catch(complain);
  const change = (name, value) => { setForm((before) => ({ ...before, [name]: value })); setLooked(null); };
  const learnFrom = (objective) => {
    const rate = Number(form.rate) === RATES[form.objective] ? RATES[objective] : form.rate;
    setForm({ ...form, objective, rate });
    setLooked(null);
  };
  const spec = methods.find(({ name }) => name === form.method);
  const look = () => own("POST", "/tuning/inspect", requestOf(model, file, form, spec)).then(setLooked).catch(complain);
  const job = looked && (changed.value.get(looked.id) || looked);
  const seen = job?.state === "succeeded";
  const start = () => call("POST", "/v1/fine_tuning/jobs", requestOf(model, file, form, spec, seen))
    .then((job) => go(`jobs?id=${job.id.replace("ftjob-", "job_")}`)).catch(complain);
  const number = (name, step = 1) => html`<${Field} id=${`tune-${name}`} label=${t(`tune_${name}`)}
    help=${t(`tune_${name}_help`)}><input id=${`tune-${name}`} type="number" min=${step} step=${step}
    value=${form[name]} aria-describedby=${`tune-${name}-help`}
    onInput=${(e) => change(name, e.target.value)} /><//>`; // a change comes too late: a render between would undo it
  return html`<${Drop} onFiles=${take} class="tune-form"><form onSubmit=${(e) => { e.preventDefault(); look(); }}>
    <${Field} id="tune-model" label=${t("model")}><select id="tune-model" value=${model} translate=${false}
      onChange=${(e) => { setModel(e.target.value); setLooked(null); }}>
      ${models.map((m) => html`<option value=${m.model}>${m.model}</option>`)}</select><//>
    <${Field} id="tune-file" label=${t("trainingData")} help=${t("trainingDataHelp")}>
      <div class="row"><${FilePicker} id="tune-file" help="tune-file-help" label=${t("chooseFile")}
        accept=${DATA_FILES} onFiles=${take} /><span class="chosen" translate=${!file}>
        ${file ? file.filename : t("noFileChosen")}</span></div><//>
    <${Field} id="tune-objective" label=${t("tuneObjective")} help=${t(`objective_${form.objective}_help`)}>
      <select id="tune-objective" value=${form.objective} aria-describedby="tune-objective-help"
        onChange=${(e) => learnFrom(e.target.value)}>${Object.keys(RATES).map((name) => html`<option value=${name}>
          ${t(`objective_${name}`)}</option>`)}</select><//>
    <${Field} id="tune-method" label=${t("tuneMethod")} help=${translated(`method_${form.method}`)}>
      <select id="tune-method" value=${form.method} aria-describedby="tune-method-help" translate=${false}
        onChange=${(e) => change("method", e.target.value)}>
        ${methods.map(({ name }) => html`<option value=${name}>${name}</option>`)}</select><//>
    <div class="fields">${number("steps")}${number("batch")}${number("rate", 0.00001)}
      ${spec.low_rank && number("rank")}
      ${form.objective === "dpo" && number("beta", 0.01)}${number("tokens")}</div>
    <div class="row"><button class="main" disabled=${!file || !model}>${t("inspectData")}</button>
      <button type="button" disabled=${!file || !model} onClick=${start}>${t("startRun")}</button></div></form>
    ${job && html`<${Looked} job=${job} name=${file.filename} />`}<//>`;
}

function Looked({ job, name }) {
  if (job.state === "succeeded") return html`<${Inspection} found=${job.result} name=${name} />`;
  if (job.error) return html`<p class="bad" role="alert" lang="en">${job.error.message}</p>`;
  return html`<${Progress} label=${t("inspectData")} done=${job.done} total=${job.total} />`;
}
