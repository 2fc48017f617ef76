// Two models answer without their names or speeds; the vote is kept, and then both are shown.
import { useState } from "../../vendor/hooks.js";
import { html, Empty, Name, complain } from "../../parts.js";
import { t } from "./i18n.js";
import { own } from "../../api.js";
import { Answer, Question, useAnswers } from "./answers.js";

const LONGEST_ANSWER = 512; // tokens: nobody waits for a model that finds no end
const VOTES = [["model_a", "voteA"], ["model_b", "voteB"], ["tie", "voteTie"], ["both_bad", "voteBad"]];

/** Two different models in an order that nobody can guess. */
function draw(models) {
  const left = [...models];
  const take = () => left.splice(Math.floor(Math.random() * left.length), 1)[0];
  return [take(), take()];
}

export function Battle({ models, go }) {
  const [fight, setFight] = useState(null); // {models, question, answers, voted}
  const { answers, busy, ask, stop, clear } = useAnswers();
  if (models.length < 2) {
    return html`<${Empty} text=${t("battleNeedsTwo")}><button type="button" class="main" onClick=${() => go("models")}>
      ${t("models")}</button><//>`;
  }
  const begin = async (question) => {
    const drawn = draw(models);
    setFight({ models: drawn, question, voted: false });
    const given = await ask(question, drawn.map((model) => ({ model, settings: { max_tokens: LONGEST_ANSWER } })));
    const whole = given.every((a) => a.text && !a.failed);
    setFight(whole ? { models: drawn, question, answers: given, voted: false } : null);
  };
  const vote = async (winner) => {
    const [a, b] = fight.answers;
    const [model_a, model_b] = fight.models;
    const texts = { question: fight.question, answer_a: a.text, answer_b: b.text };
    try {
      await own("POST", "/votes", { model_a, model_b, winner, blind: true, ...texts });
      setFight({ ...fight, voted: true });
    } catch (e) { complain(e); }
  };
  const canVote = fight?.answers && !fight.voted;
  const shown = (answer) => answer && { ...answer, speed: fight?.voted ? answer.speed : 0 };
  const name = (i) => (fight?.voted ? html`<${Name}>${fight.models[i]}
    <//>` : t("hiddenModel", { n: i + 1 }));
  return html`<p class="quiet">${t("battleHelp", { n: LONGEST_ANSWER })}</p>
    <div class="columns">${[0, 1].map((i) => html`<section class="card" key=${i}
      aria-label=${t("column", { n: i + 1 })}>
      <h3>${name(i)}</h3><${Answer} answer=${shown(answers[i])} /></section>`)}</div>
    ${canVote && html`<div class="row votes" role="group" aria-label=${t("battle")}>${VOTES.map(([winner, words]) =>
      html`<button type="button" key=${winner} onClick=${() => vote(winner)}>${t(words)}</button>`)}</div>`}
    ${fight?.voted && html`<div class="row votes"><p role="status">
      ${t("voted", { a: fight.models[0], b: fight.models[1] })}</p>
      <button type="button" class="main" onClick=${() => { clear(); setFight(null); }}>${t("nextBattle")}</button>
        </div>`}
    ${!fight?.answers && html`<${Question} busy=${busy} ready=${true} onStop=${stop} onAsk=${begin} />`}`;
}
